package netlab

import (
	"encoding/hex"
	"strings"
	"testing"
)

// frame builds a frame from hexadecimal digits with blanks.
func frame(t testing.TB, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	macs = "02ffffffff01 02ffffffff02 "
	// IPv4 from 10.0.0.1 to 10.0.0.2: version and length, TOS, total length
	// (%), ID, flags, TTL, protocol (%), checksum.
	ip4 = macs + "0800 45 00 %s 0000 0000 40 %s 0000 0a000001 0a000002 "
	ip6 = macs + "86dd 60000000 %s %s 40 fe800000000000000000000000000001 ff020000000000000000000000000016 "
)

func with(template string, parts ...string) string {
	for _, p := range parts {
		template = strings.Replace(template, "%s", p, 1)
	}
	return template
}

func TestClassify(t *testing.T) {
	data := "04000000" + strings.Repeat("00", 28)
	for _, tt := range []struct {
		name, digits string
		want         Class
		line         string
	}{
		{"empty", "", Other, "frame of 0 bytes"},
		{"arp", macs + "0806 0001", ARP, ""},
		{"spanning tree", "0180c2000000 02ffffffff02 0026 4242", Other, "802.3 frame to 0180c2000000"},
		{"vlan", macs + "8100 0001", Other, "frame of EtherType 0x8100"},
		{"icmp", with(ip4, "001c", "01") + "0800 0000 0000 0000", ICMP, ""},
		{"data", with(ip4, "003c", "11") + "1a7f 1a7f 0028 0000" + data, WireGuard, ""},
		{"data from a mapped port", with(ip4, "003c", "11") + "9999 1a7f 0028 0000" + data, WireGuard, ""},
		{"data on another port", with(ip4, "003c", "11") + "9999 9998 0028 0000" + data, Other, "UDP 10.0.0.1:39321 > 10.0.0.2:39320"},
		{"initiation", with(ip4, "00b0", "11") + "1a7f 1a7f 009c 0000 01000000" + strings.Repeat("ab", 144), WireGuard, ""},
		{"short initiation", with(ip4, "003c", "11") + "1a7f 1a7f 0028 0000 01" + data[2:], Other, "UDP 10.0.0.1:6783 > 10.0.0.2:6783"},
		{"type 5", with(ip4, "003c", "11") + "1a7f 1a7f 0028 0000 05" + data[2:], Other, "UDP 10.0.0.1:6783 > 10.0.0.2:6783"},
		{"empty datagram", with(ip4, "001c", "11") + "1a7f 1a7f 0008 0000", Other, "UDP 10.0.0.1:6783 > 10.0.0.2:6783"},
		{"padding is not payload", with(ip4, "001c", "11") + "1a7f 1a7f 0008 0000" + data, Other, "UDP 10.0.0.1:6783 > 10.0.0.2:6783"},
		{"join", with(ip4, "0028", "06") + "9999 1a7f" + strings.Repeat("00", 16), Join, ""},
		{"web", with(ip4, "0028", "06") + "0050 9999" + strings.Repeat("00", 16), Other, "TCP 10.0.0.1:80 > 10.0.0.2:39321"},
		{"fragment", strings.Replace(with(ip4, "003c", "11"), "0000 0000 40", "0000 0010 40", 1) + "1a7f 1a7f 0028 0000" + data, Other, "IPv4 fragment 10.0.0.1 > 10.0.0.2"},
		{"truncated", with(ip4, "0100", "11") + "1a7f", Other, "broken IPv4 packet 10.0.0.1 > 10.0.0.2"},
		{"gre", with(ip4, "0018", "2f") + "00000000", Other, "IP protocol 47 10.0.0.1 > 10.0.0.2"},
		{"mld behind hop-by-hop", with(ip6, "0010", "00") + "3a00050200000100 8f00000000000000", ICMPv6, ""},
		{"wireguard over ipv6", with(ip6, "0028", "11") + "1a7f 1a7f 0028 0000" + data, WireGuard, ""},
		{"endless options", with(ip6, "0008", "00") + "00ff050200000100", Other, "broken IPv6 packet fe80::1 > ff02::16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			class, line := classify(frame(t, tt.digits))
			if class != tt.want || line != tt.line {
				t.Errorf("got %v %q, want %v %q", class, line, tt.want, tt.line)
			}
		})
	}
}

func FuzzClassify(f *testing.F) {
	f.Add(frame(f, macs+"0806 0001"))
	f.Add(frame(f, with(ip4, "0028", "06")+"9999 1a7f"+strings.Repeat("00", 16)))
	f.Add(frame(f, with(ip4, "003c", "11")+"1a7f 1a7f 0028 0000 04000000"+strings.Repeat("00", 28)))
	f.Add(frame(f, with(ip6, "0010", "00")+"3a00050200000100 8f00000000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		class, line := classify(b)
		if (class == Other) != (line != "") {
			t.Errorf("class %v with the line %q", class, line)
		}
		if len(line) > 200 || strings.ContainsRune(line, '\n') {
			t.Errorf("line %q", line)
		}
	})
}
