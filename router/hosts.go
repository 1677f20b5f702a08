package router

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"weft/internal/statedb"
)

const (
	hostsMark = "# weft"
	// hostsWas stands before a line of somebody else's that gives the container's name another address, as the engine does.
	hostsWas = "# weft, while attached: "
	// maxHosts is how large a hosts file is rewritten, in bytes: root in the container writes it, too, and makes it as large as the
	// disk allows, or larger without a byte on it.
	maxHosts = 1 << 20
)

// hostsFile is a container's /etc/hosts. It is stored, since it is to be given back without the engine, too.
type hostsFile struct{ Path, Hostname, Domainname string }

// rewriteHosts does it for an attachment, unless this host is not to. The container is locked.
func (r *Router) rewriteHosts(a *attachment) error {
	if a == nil || r.o.NoRewriteHosts {
		return nil
	}
	return a.rewriteHosts()
}

// rewriteHosts makes a container's own name mean its addresses on the mesh, in
// its /etc/hosts, if that was asked for; without addresses it gives back what others wrote there. The file is changed in place: it is
// bind-mounted into the container, and a new file would not be seen there.
func (a *attachment) rewriteHosts() error {
	if !a.RewriteHosts || a.HostsFile.Path == "" {
		return nil
	}
	var addrs []netip.Addr
	for _, p := range a.Addrs {
		addrs = append(addrs, p.Addr())
	}
	err := rewriteHosts(a.HostsFile.Path, a.HostsFile.Hostname, a.HostsFile.Domainname, addrs)
	if len(addrs) == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil // it has gone with its container
	}
	return err
}

// giveHostsBack gives back what the state file tells of, and says what could not be. It changes nothing else, and a file that can not
// be read tells of nothing.
func giveHostsBack(stateFile string) (errs []error) {
	if _, err := os.Stat(stateFile); err != nil {
		return nil // Open would make it
	}
	db, err := statedb.Open(stateFile)
	if err != nil {
		return nil
	}
	defer db.Close()
	as, _ := loadAttachments(db.Load)
	for _, a := range as {
		a.Addrs = nil
		if err := a.rewriteHosts(); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", shortKey(a.Key), err))
		}
	}
	return errs
}

// rewriteHosts writes nothing where all is as it should be.
func rewriteHosts(path, hostname, domain string, addrs []netip.Addr) error {
	old, err := readHosts(path)
	if err != nil {
		return fmt.Errorf("read hosts file: %w", err)
	}
	text := hostsWith(old, hostname, domain, addrs)
	if text == old {
		return nil
	}
	if err := writeHosts(path, old, text); err != nil {
		return fmt.Errorf("write hosts file: %w", err)
	}
	return nil
}

func readHosts(path string) (string, error) {
	f, err := openHosts(path, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hostsIn(f)
}

// hostsIn reads a byte more than is rewritten, at most.
func hostsIn(f *os.File) (string, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err == nil && len(b) > maxHosts {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), maxHosts)
	}
	return string(b), err
}

func writeHosts(path, old, text string) error {
	f, err := openHosts(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := overwrite(f, old, text); err != nil {
		return err
	}
	return f.Close()
}

// inPlace is a file that is changed where it is.
type inPlace interface {
	WriteAt(b []byte, off int64) (int, error)
	Truncate(size int64) error
}

// overwrite never leaves the file without what both texts have: programs read it meanwhile, and a router that is killed or a full
// disk would leave it so until the container is started anew. A shorter text is written with empty lines up to the end of what is
// there, so that no rest of a line is read; what there is no room for is undone, which needs none.
func overwrite(f inPlace, old, text string) error {
	put := func(text string, end int) (int, error) {
		return f.WriteAt([]byte(text+strings.Repeat("\n", max(0, end-len(text)))), 0)
	}
	if n, err := put(text, len(old)); err != nil {
		_, undone := put(old, n)
		return errors.Join(err, undone, f.Truncate(int64(len(old))))
	}
	return f.Truncate(int64(len(text)))
}

// openHosts opens a regular file. Whatever else is there, such as a pipe that nobody has at its other end, keeps nobody waiting; and a
// link is not followed, since a container may be able to write the directory of a hosts file that it was given as a volume.
func openHosts(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%s is a symbolic link, which is not followed", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// hostsWith is the hosts file with the mesh's addresses for the hostname, where other
// addresses for it are comments; with none of the mesh's, it is what others wrote.
func hostsWith(old, hostname, domain string, addrs []netip.Addr) string {
	short, _, _ := strings.Cut(hostname, ".")
	names := []string{hostname}
	if domain != "" {
		names = append(names, hostname+"."+domain)
	}
	if short != hostname {
		names = append(names, short)
	}
	var b strings.Builder
	for _, a := range addrs {
		fmt.Fprintf(&b, "%s\t%s %s\n", a, strings.Join(names, " "), hostsMark)
	}
	for line := range strings.Lines(old) {
		for strings.HasPrefix(line, hostsWas) {
			line = line[len(hostsWas):]
		}
		if strings.HasSuffix(strings.TrimSpace(line), hostsMark) {
			continue
		}
		entry, _, _ := strings.Cut(line, "#")
		for i, f := range strings.Fields(entry) {
			if i > 0 && f == hostname && len(addrs) > 0 {
				b.WriteString(hostsWas)
				break
			}
		}
		b.WriteString(line)
	}
	return b.String()
}
