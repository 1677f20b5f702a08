package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch calls poke when something changes that Set or the answers of Endpoints, Guests and
// UnderlayMTU depend on: our interfaces, any address, the main routing table,
// our tables of nftables and those that can drop our packets, and when it has
// lost events. What Set itself changes counts too; a Set that changes nothing
// causes no call. poke must not block. Watch returns nil when ctx ends.
func (h *Host) Watch(ctx context.Context, poke func()) error {
	routes, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("watch interfaces and routes: %w", err)
	}
	rules, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		routes.Close()
		return fmt.Errorf("watch nftables: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 2)
	wg.Go(func() { defer cancel(); errs[0] = receive(ctx, routes, h.ofNetwork, poke) })
	wg.Go(func() { defer cancel(); errs[1] = receive(ctx, rules, ofFirewall, poke) })
	// What changed before the sockets were there is nobody's event.
	poke()
	<-ctx.Done()
	routes.Close()
	rules.Close()
	wg.Wait()
	return errors.Join(errs...)
}

// receive reads until the socket is closed after ctx; one call of poke per batch.
func receive(ctx context.Context, s *nl.NetlinkSocket, matters func(syscall.NetlinkMessage) bool, poke func()) error {
	for {
		batch, _, err := s.Receive()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.ENOBUFS): // events were lost
			poke()
			continue
		case errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("receive netlink events: %w", err)
		}
		for _, m := range batch {
			if matters(m) {
				poke()
				break
			}
		}
	}
}

// ofNetwork judges an event of NETLINK_ROUTE.
func (h *Host) ofNetwork(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return true
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
			return false // a bridge's news about a port
		}
		l, err := netlink.LinkDeserialize(nil, m.Data)
		if err != nil {
			return true
		}
		name := l.Attrs().Name
		if name == h.bridge || name == h.tunnel || isVethName(name) || !h.isInternal(name) {
			return true
		}
		// Of others' interfaces, those of containers come and go all the time; anything else may
		// make a bridge lead out of this host, whatever its name.
		return !isGuestPort(l) && l.Type() != "bridge"
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return false
		}
		msg := nl.DeserializeRtMsg(m.Data)
		return msg.Table == unix.RT_TABLE_MAIN && msg.Flags&unix.RTM_F_CLONED == 0
	}
	return false
}

// ofFirewall judges an event of nftables. Each message but the one that ends a
// transaction starts, after its header of 4 bytes, with its table's name.
func ofFirewall(m syscall.NetlinkMessage) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		return true // a new base chain may drop our packets
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE, unix.NFT_MSG_NEWSET,
		unix.NFT_MSG_DELSET, unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		table := firstString(m.Data)
		return table == tableName || table == "filter" || table == "firewalld"
	}
	return false
}

// firstString is the value of the first attribute if it has type 1.
func firstString(data []byte) string {
	const header = 4 + 4 // nfgenmsg, then length and type of the attribute
	if len(data) < header {
		return ""
	}
	length, kind := int(binary.NativeEndian.Uint16(data[4:])), binary.NativeEndian.Uint16(data[6:])
	if kind != 1 || length < 4 || 4+length > len(data) {
		return ""
	}
	s, _, _ := strings.Cut(string(data[header:4+length]), "\x00")
	return s
}
