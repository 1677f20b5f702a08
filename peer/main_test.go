package peer

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain is also the programs that the tests start: "device" is what
// "weft device" is, "router" opens a device and waits to be killed, "hang" is a
// device process that does not get ready.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "device":
			os.Exit(deviceMain(os.Args[2:]))
		case "router":
			os.Exit(routerMain())
		case "hang":
			fmt.Fprintln(os.Stderr, "hangs")
			unix.Pause()
		}
	}
	goleak.VerifyTestMain(m)
}

func deviceMain(args []string) int {
	fs := flag.NewFlagSet("device", flag.ContinueOnError)
	leash := fs.Int("leash", 0, "pid of the test")
	o := ServeOptions{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	fs.StringVar(&o.Interface, "interface", "", "")
	fs.IntVar(&o.MTU, "mtu", 0, "")
	fs.StringVar(&o.RunDir, "run-dir", "", "")
	pdeathsig := fs.Bool("pdeathsig", false, "die with the starter's thread, even when stopped")
	if fs.Parse(args) != nil {
		return 2
	}
	if *pdeathsig {
		unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	}
	go dieWith(*leash)
	signal.Ignore(unix.SIGHUP) // as the verb does
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	if err := Serve(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// dieWith ends this process when the test is gone, even if it was killed.
func dieWith(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err != unix.EINTR {
				break
			}
		}
	}
	os.Exit(3)
}

// routerOrder comes on the router's standard input: a private key must not be
// on a command line, in tests neither.
type routerOrder struct {
	Options Options
	Peers   []Config
}

func routerMain() int {
	var order routerOrder
	b, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = json.Unmarshal(b, &order)
	}
	if err == nil {
		var d *Device
		if d, err = Open(context.Background(), order.Options); err == nil {
			err = d.Set(order.Peers)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("up")
	select {}
}
