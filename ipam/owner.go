package ipam

import (
	"bytes"
	"encoding/base32"
)

// Owner is the peer ID of a host that owns address space. The zero Owner is nobody.
type Owner [10]byte

var ownerText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the 16 characters in which peer IDs are printed.
func (o Owner) String() string { return ownerText.EncodeToString(o[:]) }

// IsZero says whether o is nobody.
func (o Owner) IsZero() bool { return o == Owner{} }

// Compare orders owners by their bytes, as peer IDs are ordered everywhere.
func (o Owner) Compare(other Owner) int { return bytes.Compare(o[:], other[:]) }
