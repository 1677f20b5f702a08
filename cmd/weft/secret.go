package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/term"

	"weft/router"
)

// maxSecretFile bounds what is read as a password or token, in bytes.
const maxSecretFile = 64 << 10

// secretFlags are the ways to give the mesh's secret; so is a token among the peers.
type secretFlags struct {
	password, passwordFile, token, tokenFile string
}

// secretSource is the one that counts.
type secretSource struct {
	flag  string // "password", "password-file", "token", "token-file"; "": none of the flags
	value string
}

// chooseSecret decides which source counts. What is typed beats the environment,
// a token among the peers included; two sources of the same rank are an error,
// since a mesh has one secret.
func (a *app) chooseSecret(f secretFlags, tokenPeer bool) (secretSource, error) {
	var typed, env []secretSource
	for _, s := range []secretSource{
		{"password", f.password}, {"password-file", f.passwordFile}, {"token", f.token}, {"token-file", f.tokenFile},
	} {
		switch {
		case s.value == "":
		case a.fromEnv[s.flag]:
			env = append(env, s)
		default:
			typed = append(typed, s)
		}
	}
	if tokenPeer {
		for _, s := range typed {
			if strings.HasPrefix(s.flag, "password") {
				return secretSource{}, fmt.Errorf("--%s and a join token were both given, and a mesh has one secret", s.flag)
			}
		}
	}
	if len(typed) == 0 && !tokenPeer {
		typed = env
	}
	switch len(typed) {
	case 0:
		return secretSource{}, nil
	case 1:
		return typed[0], nil
	}
	var names []string
	for _, s := range typed {
		name := "--" + s.flag
		if a.fromEnv[s.flag] {
			name = envName(s.flag)
		}
		names = append(names, name)
	}
	return secretSource{}, fmt.Errorf("%s were both given, and a mesh has one secret", strings.Join(names, " and "))
}

// readSecret puts the secret into the options, and a token's endpoints to the targets.
func (a *app) readSecret(ctx context.Context, s secretSource, p *peerArgs, o *router.Options) error {
	switch s.flag {
	case "password":
		o.Password = s.value
		if s.value == "-" {
			var err error
			if o.Password, err = a.prompt(ctx, len(p.Targets) == 0); err != nil {
				return err
			}
		}
	case "password-file":
		b, err := a.readFile(s)
		if err != nil {
			return err
		}
		o.Password = strings.TrimRight(b, "\r\n")
	case "token":
		return a.useToken(s.value, p, o)
	case "token-file":
		b, err := a.readFile(s)
		if err != nil {
			return err
		}
		return a.useToken(b, p, o)
	}
	if s.flag != "" && o.Password == "" {
		return fail("the password is the first thing in the file, without quotes", "the password is empty")
	}
	if len(p.Tokens) > 0 {
		o.Token = p.Tokens[0]
	}
	return nil
}

func (a *app) useToken(text string, p *peerArgs, o *router.Options) error {
	if err := p.addToken(strings.TrimSpace(text)); err != nil {
		return fail("weft token prints it on a host of the mesh; tokens of Weave Cloud mean nothing to weft", "%w", err)
	}
	o.Token = p.Tokens[0]
	return nil
}

func (a *app) readFile(s secretSource) (string, error) {
	r := io.Reader(a.stdin)
	name := "stdin"
	if s.value != "-" {
		f, err := os.Open(s.value)
		if err != nil {
			return "", unreadable(s, err)
		}
		defer f.Close()
		r, name = f, s.value
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSecretFile+1))
	if err != nil {
		return "", unreadable(s, err)
	}
	if len(b) > maxSecretFile {
		return "", fmt.Errorf("read --%s: %s is larger than %d bytes", s.flag, name, maxSecretFile)
	}
	return string(b), nil
}

// unreadable says what is wrong with the file of a secret, and how to make one.
func unreadable(s secretSource, err error) error {
	hint := "weft token, on a host of the mesh, prints what the file is to hold; or give the token itself: weft launch weft1-…"
	if s.flag == "password-file" {
		hint = "the file holds the password and nothing else; --password - asks for it instead"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(hint, "--%s: there is no file %s", s.flag, s.value)
	case errors.Is(err, fs.ErrPermission):
		return fail(hint, "--%s: %s may not be read", s.flag, s.value)
	case errors.Is(err, syscall.EISDIR):
		return fail(hint, "--%s: %s is a directory", s.flag, s.value)
	}
	return fail(hint, "read --%s: %w", s.flag, err)
}

// prompt asks for the password without showing it, twice when this host may
// found a mesh, where a slip would show only on the second host.
func (a *app) prompt(ctx context.Context, twice bool) (string, error) {
	fd := int(a.stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fail("weft launch --password-file FILE, or - for stdin", "stdin is no terminal to ask for the password at")
	}
	type answer struct {
		text []byte
		err  error
	}
	ask := func(what string) (string, error) {
		fmt.Fprint(a.stderr, what)
		defer fmt.Fprintln(a.stderr)
		c := make(chan answer, 1)
		go func() { // a read of a terminal cannot be cancelled: it ends with the process
			b, err := term.ReadPassword(fd)
			c <- answer{b, err}
		}()
		select {
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), term.Restore(fd, before))
		case x := <-c:
			if x.err != nil && !errors.Is(x.err, io.EOF) {
				return "", fmt.Errorf("read password: %w", x.err)
			}
			return string(x.text), nil
		}
	}
	first, err := ask("Password of the mesh: ")
	if err != nil || !twice {
		return first, err
	}
	second, err := ask("Once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ")
	}
	return first, nil
}

// secretEnv are the variables that hold a secret.
var secretEnv = []string{envName("password"), envName("token")}

// forgetSecrets takes the secrets out of the environment, which every process
// started from here on inherits.
func forgetSecrets() {
	for _, name := range secretEnv {
		os.Unsetenv(name)
	}
}

// withoutSecrets is an environment without them.
func withoutSecrets(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(secretEnv, name)
	})
}
