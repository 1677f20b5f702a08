package netlab

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// A forwarder carries the frames of one cable by hand. The cable's port leaves
// the bridge and a second veth pair takes its place:
//
//	host eth0 ══ p1   forwarder   f1 ══ b1 ── bridge
//
// Frames from the host pass as they are; frames to the host meet the dice of
// their sender. Checksums and segments must be finished before a frame is read
// (an offloading link leaves both to a hardware that never comes), so eth0 and
// b1, which send into the forwarder, have their offloads off.
type forwarder struct {
	host, bridge *packetSocket // on p1 and on f1
	wg           sync.WaitGroup
	line         delayLine

	mu   sync.Mutex // guards the field below
	dice map[[6]byte]*dice
}

func (c *cable) outerName() string { return fmt.Sprintf("f%d", c.n) }
func (c *cable) innerName() string { return fmt.Sprintf("b%d", c.n) }

func (c *cabling) spliceInLocked(cb *cable, byMAC map[[6]byte]*dice) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("impair cable of %s: %w", cb.host.name, errors.Join(err, c.removePairLocked(cb)))
		}
	}()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = cb.outerName()
	if err := c.links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: cb.innerName()}); err != nil {
		return err
	}
	if err := c.space.do(func() error { return setOffloads(cb.innerName(), false) }); err != nil {
		return err
	}
	if err := cb.host.space.do(func() error { return setOffloads(hostLink, false) }); err != nil {
		return err
	}
	f := &forwarder{dice: byMAC}
	f.line.init()
	outer, err := c.links.LinkByName(cb.outerName())
	if err != nil {
		return err
	}
	port, err := c.links.LinkByName(cb.port)
	if err != nil {
		return err
	}
	if err := c.links.LinkSetUp(outer); err != nil {
		return err
	}
	err = c.space.do(func() (err error) {
		if f.host, err = openPacketSocket(port.Attrs().Index, ignoreOutgoing); err != nil {
			return err
		}
		f.bridge, err = openPacketSocket(outer.Attrs().Index, ignoreOutgoing)
		return err
	})
	if err == nil {
		err = c.links.LinkSetNoMaster(port)
	}
	if err == nil {
		err = c.connect(cb.innerName())
	}
	if err == nil {
		err = waitUp(c.links, cb.outerName())
	}
	if err != nil {
		f.closeSockets()
		return errors.Join(err, c.connect(cb.port))
	}
	f.start()
	cb.forwarder = f
	return c.applyCutsLocked()
}

func (c *cabling) spliceOutLocked(cb *cable) error {
	cb.forwarder.stop()
	cb.forwarder = nil
	err := errors.Join(c.removePairLocked(cb), c.connect(cb.port), c.applyCutsLocked())
	if err != nil {
		return fmt.Errorf("restore cable of %s: %w", cb.host.name, err)
	}
	return nil
}

// removePairLocked removes what spliceInLocked added to the links.
func (c *cabling) removePairLocked(cb *cable) error {
	err := cb.host.space.do(func() error { return setOffloads(hostLink, true) })
	outer, findErr := c.links.LinkByName(cb.outerName())
	if _, gone := errors.AsType[netlink.LinkNotFoundError](findErr); gone {
		return err
	}
	if findErr != nil {
		return errors.Join(err, findErr)
	}
	return errors.Join(err, c.links.LinkDel(outer))
}

func (f *forwarder) setDice(byMAC map[[6]byte]*dice) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dice = byMAC
}

func (f *forwarder) start() {
	f.wg.Go(func() {
		f.host.each(func(frame []byte) { f.bridge.send(frame) })
	})
	f.wg.Go(func() {
		f.bridge.each(f.toHost)
	})
	f.wg.Go(func() {
		f.line.run(func(frame []byte) { f.host.send(frame) })
	})
}

func (f *forwarder) toHost(frame []byte) {
	if len(frame) < 14 {
		return
	}
	var lost bool
	var delay time.Duration
	f.mu.Lock()
	if d := f.dice[[6]byte(frame[6:12])]; d != nil {
		lost, delay = d.next()
	}
	f.mu.Unlock()
	switch {
	case lost:
	case delay == 0:
		f.host.send(frame)
	default:
		f.line.add(frame, time.Now().Add(delay))
	}
}

func (f *forwarder) stop() {
	f.closeSockets()
	f.line.end()
	f.wg.Wait()
}

func (f *forwarder) closeSockets() {
	for _, s := range []*packetSocket{f.host, f.bridge} {
		if s != nil {
			s.close()
		}
	}
}
