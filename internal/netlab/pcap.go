package netlab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"os"
	"time"
)

// pcapWriter writes the classic pcap format (draft-ietf-opsawg-pcap): little
// endian, nanoseconds, whole frames.
type pcapWriter struct {
	f   *os.File
	w   *bufio.Writer
	err error // the first one
}

const (
	pcapMagicNano    = 0xa1b23c4d
	pcapLinkEthernet = 1
)

func createPcap(path string) (*pcapWriter, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	p := &pcapWriter{f: f, w: bufio.NewWriterSize(f, 1<<20)}
	b := binary.LittleEndian.AppendUint32(nil, pcapMagicNano)
	b = binary.LittleEndian.AppendUint16(b, 2) // version 2.4
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...) // reserved
	b = binary.LittleEndian.AppendUint32(b, maxFrame)
	b = binary.LittleEndian.AppendUint32(b, pcapLinkEthernet)
	_, p.err = p.w.Write(b)
	return p, nil
}

func (p *pcapWriter) write(frame []byte, at time.Time) {
	if p.err != nil {
		return
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 16), uint32(at.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	_, err1 := p.w.Write(b)
	_, err2 := p.w.Write(frame)
	p.err = errors.Join(err1, err2)
}

func (p *pcapWriter) close() error {
	return errors.Join(p.err, p.w.Flush(), p.f.Close())
}
