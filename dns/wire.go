package dns

import (
	"strings"
)

// Names within the package are in wire form (RFC 1035, 3.1), uncompressed: a length
// and so many bytes for each label, and a zero. Those of the table are in lower case.

// appendWire gives a name of the form that [ValidName] gives, in wire form.
func appendWire(b []byte, name string) []byte {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label != "" {
			b = append(append(b, byte(len(label))), label...)
		}
	}
	return append(b, 0)
}

func toWire(name string) string { return string(appendWire(nil, name)) }

// fromWire undoes toWire.
func fromWire(name string) string {
	if len(name) < 2 {
		return "."
	}
	var b strings.Builder
	b.Grow(len(name) - 1)
	for i := 0; i < len(name) && name[i] != 0; i += 1 + int(name[i]) {
		b.WriteString(name[i+1 : i+1+int(name[i])])
		b.WriteByte('.')
	}
	return b.String()
}

// lower has the lower case of the ASCII letters. The lengths of labels, at most
// 63, are below them.
var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// appendLower appends a name in lower case.
func appendLower(b, name []byte) []byte {
	for _, c := range name {
		b = append(b, lower[c])
	}
	return b
}

// oneLabel says whether a name has a single label.
func oneLabel(name []byte) bool { return len(name) > 2 && int(name[0])+2 == len(name) }
