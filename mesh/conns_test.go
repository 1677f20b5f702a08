package mesh

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
)

// endlessDial is a Network on which a dial goes on until it is ended.
type endlessDial struct{ Network }

func (endlessDial) Dial(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A dial under way may come from an address that is lost, and ends with it. What is got
// beside that, or told in another order, ends nothing.
func TestDialsEndWhenAnAddressIsLost(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	other := netip.AddrPortFrom(a.Addr(), 2)
	for name, c := range map[string]struct {
		before, now []netip.AddrPort
		ends        bool
	}{
		"added":         {[]netip.AddrPort{a}, []netip.AddrPort{a, b}, false},
		"another order": {[]netip.AddrPort{a, b}, []netip.AddrPort{b, a}, false},
		"another port":  {[]netip.AddrPort{a}, []netip.AddrPort{other}, false},
		"lost":          {[]netip.AddrPort{a, b}, []netip.AddrPort{b}, true},
		"moved":         {[]netip.AddrPort{a}, []netip.AddrPort{b}, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, _ *world) {
				o, ctx := newConns(), t.Context()
				ended := false
				go func() {
					_, err := o.dial(ctx, endlessDial{}, b)
					ended = err != nil
				}()
				synctest.Wait()
				o.moved(c.before, c.now)
				synctest.Wait()
				if ended != c.ends {
					t.Errorf("it has ended: %v", ended)
				}
			})
		})
	}
}
