package dns

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	miekg "github.com/miekg/dns"
)

// Record is one thing that one name says. Its type follows from the field that is set: Addr
// makes an A or AAAA record (and the PTR record that leads back), Port an SRV
// record with Target, Text a TXT record, and Target alone a CNAME. Records are
// comparable.
type Record struct {
	// Name is in full, in any case. A first label "*" stands for every name below
	// the rest that does not exist (RFC 4592).
	Name   string
	Addr   netip.Addr // IPv4 or IPv6
	Port   uint16
	Target string // a name in full; of a CNAME it may be outside the domain
	Text   string // at most 255 bytes
	Owner  string // the container's ID; empty if the name belongs to no container
	Host   string // peer ID of the host that registered it
	// Down says that the container calls itself unhealthy: it is answered only if
	// all that the name has of the type are.
	Down bool
}

// Type is the record's type as zone files have it: "A", "AAAA", "SRV", "TXT" or
// "CNAME".
func (r Record) Type() string { return miekg.TypeToString[r.rrtype()] }

func (r Record) rrtype() uint16 {
	switch {
	case r.Addr.Is4():
		return miekg.TypeA
	case r.Addr.IsValid():
		return miekg.TypeAAAA
	case r.Port != 0:
		return miekg.TypeSRV
	case r.Text != "":
		return miekg.TypeTXT
	}
	return miekg.TypeCNAME
}

// checked gives the record in the form that tables hold, and the reason why it can't be in
// a domain's table.
func (r Record) checked(domain string) (Record, error) {
	name, err := ValidPattern(r.Name, domain)
	if err != nil {
		return r, err
	}
	r.Name, r.Addr = name, r.Addr.Unmap().WithZone("")
	set := 0
	for _, is := range []bool{r.Addr.IsValid(), r.Text != "", r.Target != "" || r.Port != 0} {
		if is {
			set++
		}
	}
	if set != 1 {
		return r, fmt.Errorf("record %q: says nothing, or several things", r.Name)
	}
	if len(r.Text) > 255 {
		return r, fmt.Errorf("record %q: text is longer than 255 bytes", r.Name)
	}
	if r.Target != "" || r.Port != 0 {
		if r.Target, err = ValidTarget(r.Target); err != nil {
			return r, err
		}
	}
	return r, nil
}

// ValidTarget checks a name that another name is to lead to, in any domain, and
// gives it in lower case with the last dot.
func ValidTarget(name string) (fqdn string, err error) {
	full := canonical(name)
	if full == "." {
		return "", fmt.Errorf("target %q: empty", name)
	}
	if err := checkLabels(full); err != nil {
		return "", fmt.Errorf("target %q: %w", name, err)
	}
	return full, nil
}

// entry is a record as the table keeps it, below its name.
type entry struct {
	data  string // RDATA, names in it uncompressed
	owner string
	rtype uint16
	host  uint16 // index into the table's hosts
	down  bool
}

// compare orders entries; two that are equal are one record, but for its health.
func (e entry) compare(o entry) int {
	return cmp.Or(cmp.Compare(e.rtype, o.rtype), strings.Compare(e.data, o.data), cmp.Compare(e.host, o.host), strings.Compare(e.owner, o.owner))
}

// rdata writes a checked record's data.
func (r Record) rdata() string {
	switch r.rrtype() {
	case miekg.TypeA, miekg.TypeAAAA:
		return string(r.Addr.AsSlice())
	case miekg.TypeSRV: // RFC 2782: priority, weight, port, target
		b := binary.BigEndian.AppendUint16(make([]byte, 4, 6+len(r.Target)+1), r.Port)
		return string(appendWire(b, r.Target))
	case miekg.TypeTXT:
		return string(append([]byte{byte(len(r.Text))}, r.Text...))
	}
	return toWire(r.Target)
}

// record undoes rdata; false for entries that were not records, which PTR are.
func (e entry) record(name string, host string) (Record, bool) {
	r := Record{Name: fromWire(name), Owner: e.owner, Host: host, Down: e.down}
	switch e.rtype {
	case miekg.TypeA, miekg.TypeAAAA:
		r.Addr, _ = netip.AddrFromSlice([]byte(e.data))
	case miekg.TypeSRV:
		r.Port, r.Target = binary.BigEndian.Uint16([]byte(e.data[4:6])), fromWire(e.data[6:])
	case miekg.TypeTXT:
		r.Text = e.data[1:]
	case miekg.TypeCNAME:
		r.Target = fromWire(e.data)
	default:
		return r, false
	}
	return r, true
}
