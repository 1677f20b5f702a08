package mesh

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"net"
	"sync"
)

// memberlist seals a stream's message: type u8 = 10 | length u32 | version u8 | nonce 12
// | AES-GCM over the message, whose first byte is its type. So the type is told by the
// first bytes, before memberlist has read and opened the rest. If it is not sealed with
// that key, the type is a random number, and memberlist refuses it.
const (
	sealedType = 10
	sealedHead = 1 + 4 + 1 + 12 + 1

	typeCompressed = 9  // unpacks to 40 MiB; no host of ours sends it
	typeRefused    = 13 // the answer to a stream that memberlist cannot read
)

var (
	errStreamTooLong = errors.New("gossip stream is too long")
	errCompressed    = errors.New("gossip stream is compressed, as weft sends none")
	errUnread        = errors.New("memberlist could not read its stream")
)

// typeOf is the type of a sealed message, of which head is the beginning.
func typeOf(b cipher.Block, head []byte) byte {
	var x [aes.BlockSize]byte
	copy(x[:], head[6:18])
	x[15] = 2 // GCM's counter: 1 is the tag's
	b.Encrypt(x[:], x[:])
	return head[sealedHead-1] ^ x[0]
}

// stream is one with a member, whoever has opened it. It reads so much, refuses what is
// compressed, and gives its place back when it is closed.
type stream struct {
	net.Conn
	key   cipher.Block
	left  int
	head  []byte // read so far, at most sealedHead
	cut   bool   // a read has failed: what memberlist says then is not about what was sent
	blame func(error)
	once  sync.Once
	free  func()
}

func (c *stream) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, c.refuse(errStreamTooLong)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	if more := sealedHead - len(c.head); more > 0 && n > 0 {
		c.head = append(c.head, b[:min(n, more)]...)
		if len(c.head) == sealedHead && c.head[0] == sealedType && typeOf(c.key, c.head) == typeCompressed {
			return 0, c.refuse(errCompressed)
		}
	}
	c.cut = c.cut || err != nil
	return n, err
}

// refuse ends the stream. It returns the error it was given.
func (c *stream) refuse(err error) error {
	if !c.cut {
		c.cut = true
		c.blame(err)
	}
	return err
}

// Write is memberlist's answer, in one piece.
func (c *stream) Write(b []byte) (int, error) {
	if !c.cut && len(b) >= sealedHead && b[0] == sealedType && typeOf(c.key, b) == typeRefused {
		_ = c.refuse(errUnread)
	}
	return c.Conn.Write(b)
}

func (c *stream) Close() error {
	c.once.Do(c.free)
	return c.Conn.Close()
}
