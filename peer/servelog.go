package peer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// quiet is how long a kind of warning stays silent after it was logged.
const quiet = 10 * time.Second

// wireguardLog sends wireguard-go's log to slog: its verbose lines at debug, its
// errors at warn. A peer that can't be reached gives the same error every 5 s,
// for weeks: of one kind (format string) one is logged in 10 s, with the number
// of those left out. Lines name peers by an abbreviated public key and hold no secrets.
func wireguardLog(log *slog.Logger) *device.Logger {
	l := &limiter{last: make(map[string]seen)}
	return &device.Logger{
		Verbosef: func(format string, args ...any) {
			if log.Enabled(context.Background(), slog.LevelDebug) {
				log.Debug("wireguard-go", "text", fmt.Sprintf(format, args...))
			}
		},
		Errorf: func(format string, args ...any) {
			if left, ok := l.allow(time.Now(), format); ok {
				log.Warn("wireguard-go", "err", fmt.Sprintf(format, args...), "left_out", left)
			}
		},
	}
}

type limiter struct {
	mu   sync.Mutex // guards last
	last map[string]seen
}

type seen struct {
	at   time.Time
	left int
}

// allow says whether to log a line of this kind now, and how many were left out
// since the last one. There are as many kinds as wireguard-go has format strings.
func (l *limiter) allow(now time.Time, kind string) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, known := l.last[kind]
	if known && now.Sub(s.at) < quiet {
		s.left++
		l.last[kind] = s
		return 0, false
	}
	l.last[kind] = seen{at: now}
	return s.left, true
}
