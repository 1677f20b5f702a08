package netlab

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Cut drops all frames between a and b, both ways. Nobody is told: links stay
// up, as when something on the way fails.
func (l *Lab) Cut(a, b *Host) error {
	return l.cabling.setCuts(true, way{a.cable, b.cable}, way{b.cable, a.cable})
}

// CutOneWay drops all frames that from sends to to.
func (l *Lab) CutOneWay(from, to *Host) error {
	return l.cabling.setCuts(true, way{from.cable, to.cable})
}

// Heal undoes cuts and impairments between a and b, both ways.
func (l *Lab) Heal(a, b *Host) error {
	if err := l.cabling.setCuts(false, way{a.cable, b.cable}, way{b.cable, a.cable}); err != nil {
		return err
	}
	return l.Impair(a, b, Impairment{})
}

func (c *cabling) setCuts(cut bool, ways ...way) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range ways {
		if w.from == w.to {
			return fmt.Errorf("cut %s off itself: want two hosts", w.from.host.name)
		}
	}
	for _, w := range ways {
		if cut {
			c.cut[w] = true
		} else {
			delete(c.cut, w)
		}
	}
	return c.applyCutsLocked()
}

// applyCutsLocked makes the switch's firewall say what c.cut says, in one
// transaction. Ports go by the names that the bridge knows, so it must be
// called again when those change.
func (c *cabling) applyCutsLocked() error {
	nft, err := nftables.New() // opens its socket in Flush
	if err != nil {
		return fmt.Errorf("open nftables of switch: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: "netlab"}
	nft.AddTable(table) // deleting a table that is missing would be an error
	nft.DelTable(table)
	if len(c.cut) > 0 {
		nft.AddTable(table)
		accept := nftables.ChainPolicyAccept
		chain := nft.AddChain(&nftables.Chain{
			Name: "cuts", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
		for w := range c.cut {
			nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(w.from.bridgePort())},
				&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(w.to.bridgePort())},
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
	}
	if err := c.space.do(nft.Flush); err != nil {
		return fmt.Errorf("cut cables: %w", err)
	}
	return nil
}

// linkName is a link's name as nftables compares it: padded with zeros.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
