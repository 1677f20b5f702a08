package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func jsonFlag(cmd *cobra.Command, into *bool) {
	cmd.Flags().BoolVar(into, "json", false, "print JSON")
}

// printJSON writes a value, or JSON as the router sent it, indented.
func (a *app) printJSON(v any) error {
	raw, ok := v.(json.RawMessage)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		raw = b
	}
	if len(raw) == 0 {
		return nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, withoutNulls(raw), "", "  "); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	_, err := fmt.Fprintln(a.stdout, strings.TrimRight(out.String(), "\n"))
	return err
}

// warn tells what the router has done but cannot vouch for: its answer's warnings.
func (a *app) warn(raw json.RawMessage) {
	var out struct {
		Warnings []string `json:"warnings"`
	}
	if json.Unmarshal(raw, &out) != nil { // an answer of another shape has none
		return
	}
	for _, w := range out.Warnings {
		for _, l := range lines(w) {
			fmt.Fprintln(a.stderr, "weft: warning:", l)
		}
	}
}

// listPaths are the operations whose whole answer is a list.
var listPaths = []string{"/status/targets", "/status/connections", "/status/peers"}

// withoutNulls writes [] for every null within a JSON value. In what weft prints
// a null is a list without items, since whatever else may be absent is left out;
// jq '.[]' and its like stumble over null.
func withoutNulls(raw []byte) []byte {
	var out []byte
	within := false // a string
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case within && c == '\\':
			out = append(out, c)
			i++
		case c == '"':
			within = !within
		case !within && i > 0 && bytes.HasPrefix(raw[i:], []byte("null")):
			out = append(out, "[]"...)
			i += len("null") - 1
			continue
		}
		out = append(out, raw[i])
	}
	return out
}

// print writes the router's answer to a GET, as text or as JSON.
func (a *app) print(ctx context.Context, path string, asJSON bool) error {
	if asJSON {
		var raw json.RawMessage
		if err := a.client().Do(ctx, "GET", path, nil, &raw); err != nil {
			return err
		}
		if isNull := string(bytes.TrimSpace(raw)) == "null"; isNull && slices.Contains(listPaths, path) {
			raw = json.RawMessage("[]")
		}
		return a.printJSON(raw)
	}
	var text string
	if err := a.client().Do(ctx, "GET", path, nil, &text); err != nil {
		return err
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := fmt.Fprint(a.stdout, text)
	return err
}

// printWords writes words on one line, and nothing at all when there are none.
func (a *app) printWords(words []string) error {
	if len(words) == 0 {
		return nil
	}
	_, err := fmt.Fprintln(a.stdout, strings.Join(words, " "))
	return err
}
