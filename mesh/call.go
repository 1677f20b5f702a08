package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weft/peer"
)

const (
	maxMethod = 64
	maxBody   = maxMsg - 256

	// replyPatience is how long a caller waits whose context has no deadline.
	replyPatience = 30 * time.Second
)

// CallError is what the other host's handler returned.
type CallError struct{ Text string }

func (e *CallError) Error() string { return e.Text }

// Call asks another host, through the tunnel, and returns what its Handler
// returned: an error of the handler's is a *CallError. A call to this host itself
// goes to its own Handler. Without a deadline in ctx it gives up after 30 s.
func (m *Mesh) Call(ctx context.Context, to peer.ID, method string, body []byte) ([]byte, error) {
	if len(method) == 0 || len(method) > maxMethod || len(body) > maxBody {
		return nil, fmt.Errorf("call %v: method of %d bytes with a body of %d: %w", to, len(method), len(body), ErrTooBig)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, replyPatience)
		defer cancel()
	}
	if to == m.id {
		if m.o.Handle == nil {
			return nil, &CallError{"no calls are answered here"}
		}
		return m.o.Handle(ctx, m.id, method, body)
	}
	m.mu.Lock()
	h, name := m.hosts[to], m.nameLocked(to)
	m.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("call %v: no such host is known", to)
	}
	out, err := m.call(ctx, to, method, body)
	var ce *CallError
	if err != nil && !errors.As(err, &ce) {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("call %s of %s: %w", method, name, err)
	}
	return out, err
}

func (m *Mesh) call(ctx context.Context, to peer.ID, method string, body []byte) ([]byte, error) {
	l, err := m.open(ctx, purposeCall, to, m.inside(to))
	if err != nil {
		return nil, err
	}
	defer l.close()
	if l.id != to {
		return nil, fmt.Errorf("%v answers there", l.id)
	}
	if err := l.write(msgCall, append(append([]byte{uint8(len(method))}, method...), body...)); err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = l.s.SetDeadline(deadline)
	_, b, err := readMsg(l.s, maxMsg, msgReply)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, errShort
	}
	if b[0] != 0 {
		return nil, &CallError{line(string(b[1:]))}
	}
	return b[1:], nil
}

// serveCall answers one call. The handler's context ends when the caller hangs up.
func (m *Mesh) serveCall(ctx context.Context, l *link) error {
	_, b, err := l.read(maxMsg, msgCall)
	if err != nil {
		return err
	}
	r := reader{b: b}
	method := string(r.take(int(r.u8())))
	if r.err != nil || method == "" || len(method) > maxMethod {
		m.count.add("call_malformed")
		return fmt.Errorf("parse call: %w", errShort)
	}
	_ = l.s.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.close()
	defer cancel()
	wg.Go(func() { // nothing more is sent: this ends with the session
		_, _ = l.s.ReadMsg(0)
		cancel()
	})
	out, err := []byte(nil), error(&CallError{"no calls are answered here"})
	if m.o.Handle != nil {
		out, err = m.o.Handle(ctx, l.id, method, r.b)
	}
	m.count.add("calls_served")
	reply := append([]byte{0}, out...)
	if err != nil {
		reply = append([]byte{1}, line(err.Error())...)
	} else if len(out) > maxBody {
		reply = append([]byte{1}, "the answer is too big"...)
	}
	return l.write(msgReply, reply)
}
