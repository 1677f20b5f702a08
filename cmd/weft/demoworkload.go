package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The workloads of the demonstration: a tiny web server and its client.

func newDemoRespondCmd() *cobra.Command {
	return &cobra.Command{
		Use: "demo-respond HOST NAME", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", ":"+demoPort)
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
			page := fmt.Sprintf("%s on %s says hello\n", args[1], args[0])
			s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, page, strings.Repeat(demoMarker+"\n", 20))
			})}
			defer context.AfterFunc(cmd.Context(), func() { s.Close() })()
			if err := s.Serve(l); err != http.ErrServerClosed {
				return fmt.Errorf("serve: %w", err)
			}
			return nil
		},
	}
}

func newDemoFetchCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "demo-fetch URL…", Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, url := range args {
				if err := demoFetch(cmd.Context(), a.stdout, url); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// demoFetch fetches a page as any program would: the resolver is that of
// /etc/resolv.conf.
func demoFetch(ctx context.Context, out io.Writer, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("parse URL: %w", err)
	}
	begin := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read page: %w", err)
	}
	first, _, _ := strings.Cut(string(body), "\n")
	if res.StatusCode != http.StatusOK || !strings.Contains(string(body), demoMarker) {
		return fmt.Errorf("fetch %s: %s: not the page that was expected", url, res.Status)
	}
	_, err = fmt.Fprintf(out, "%s and got %q (%d bytes, %.1f ms)\n", url, first, len(body), float64(time.Since(begin).Microseconds())/1000)
	return err
}

func mapped[A, B any](as []A, f func(A) B) []B {
	var out []B
	for _, a := range as {
		out = append(out, f(a))
	}
	return out
}
