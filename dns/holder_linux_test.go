package dns

import (
	"net/netip"
	"strings"
	"testing"
)

const procNet = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1111 1 0 100 0 0 10 0
   1: 0100007F:0035 0200007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 2222 1 0 100 0 0 10 0
   2: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3333 1 0 100 0 0 10 0
   3: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 4444 1
`

func TestFindSocket(t *testing.T) {
	for addr, want := range map[string]uint64{
		"127.0.0.1:53": 3333, "0.0.0.0:53": 3333, "10.0.0.1:53": 0, "10.0.0.1:22": 1111, "[::1]:53": 4444,
	} {
		if got := findSocket(strings.NewReader(procNet), netip.MustParseAddrPort(addr)); got != want {
			t.Errorf("%s: inode %d, want %d", addr, got, want)
		}
	}
}

func FuzzFindSocket(f *testing.F) {
	f.Add(procNet)
	f.Add("a :b c d e f g h i j")
	f.Fuzz(func(t *testing.T, table string) {
		findSocket(strings.NewReader(table), netip.MustParseAddrPort("127.0.0.1:53"))
	})
}
