package tlog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	// MaxProofExtra is the most extra data, in bytes, that a proof file carries.
	MaxProofExtra = 256 << 10
	// maxProofHashes is the length of the longest inclusion proof of a tree of fewer than 2^63 leaves.
	maxProofHashes = 63
	// MaxProofFile is the largest proof file, in bytes, that is read: room for all of its parts.
	MaxProofFile = MaxCheckpoint + MaxProofExtra/3*4 + 45*maxProofHashes + 128

	proofHeader = "c2sp.org/tlog-proof@v1\n"
)

// A ProofFile is what shows offline that an entry is in a log (c2sp.org/tlog-proof@v1); such files end in .tlog-proof.
type ProofFile struct {
	Extra      []byte // not authenticated by anything; nil for none; at most MaxProofExtra
	Index      uint64 // of the entry
	Proof      Proof  // that it is in the tree of the checkpoint
	Checkpoint []byte // signed, with its cosignatures
}

// Append appends the file to b. What [ParseProofFile] would not read back is not written.
func (f *ProofFile) Append(b []byte) ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	b = append(b, proofHeader...)
	if len(f.Extra) > 0 {
		b = append(b, "extra "...)
		b = base64.StdEncoding.AppendEncode(b, f.Extra)
		b = append(b, '\n')
	}
	b = append(b, "index "...)
	b = strconv.AppendUint(b, f.Index, 10)
	b = append(b, '\n')
	for _, h := range f.Proof {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, f.Checkpoint...), nil
}

// check says whether the parts are of a kind that a file may have; nothing is verified.
func (f *ProofFile) check() error {
	if len(f.Extra) > MaxProofExtra {
		return fmt.Errorf("tlog: %d bytes of extra data in a proof file are over the limit of %d", len(f.Extra), MaxProofExtra)
	}
	if len(f.Proof) > maxProofHashes {
		return fmt.Errorf("tlog: %d hashes in a proof file; no inclusion proof has more than %d", len(f.Proof), maxProofHashes)
	}
	c, err := UnverifiedCheckpoint(f.Checkpoint)
	if err != nil {
		return fmt.Errorf("the checkpoint of a proof file: %w", err)
	}
	if f.Index >= c.Size {
		return fmt.Errorf("tlog: a proof file is of entry %d and its checkpoint of the first %d entries", f.Index, c.Size)
	}
	return nil
}

// ParseProofFile is the exact inverse of Append. An error means that the bytes are no proof file; nothing is verified.
// The file's parts do not alias data.
func ParseProofFile(data []byte) (*ProofFile, error) {
	if len(data) > MaxProofFile {
		return nil, fmt.Errorf("tlog: a proof file of %d bytes is over the limit of %d", len(data), MaxProofFile)
	}
	rest, ok := strings.CutPrefix(string(data), proofHeader)
	if !ok {
		return nil, fmt.Errorf("tlog: a proof file begins with the line %q", strings.TrimSuffix(proofHeader, "\n"))
	}
	head, checkpoint, ok := strings.Cut(rest, "\n\n")
	if !ok {
		return nil, errors.New("tlog: a proof file has no empty line before its checkpoint")
	}
	f := &ProofFile{Checkpoint: []byte(checkpoint)}
	lines := strings.Split(head, "\n")
	if b64, ok := strings.CutPrefix(lines[0], "extra "); ok {
		extra, err := base64.StdEncoding.Strict().DecodeString(b64)
		if err != nil || len(extra) == 0 || base64.StdEncoding.EncodeToString(extra) != b64 {
			return nil, errors.New("tlog: the extra line of a proof file is not standard base64 of one byte or more")
		}
		f.Extra, lines = extra, lines[1:]
	}
	if len(lines) == 0 {
		return nil, errors.New("tlog: a proof file has no index line")
	}
	digits, ok := strings.CutPrefix(lines[0], "index ")
	index, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || strconv.FormatUint(index, 10) != digits || index > math.MaxInt64 {
		return nil, fmt.Errorf("tlog: %.60q in a proof file is not \"index \" and a decimal number below 2^63 without leading zeros", lines[0])
	}
	f.Index = index
	for i, l := range lines[1:] {
		h, err := ParseHash(l)
		if err != nil {
			return nil, fmt.Errorf("hash %d of a proof file: %w", i+1, err)
		}
		f.Proof = append(f.Proof, h)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

// Verify says whether the entry with this leaf hash is in the log, by the word of the log and the witnesses of the
// policy: how the leaf hash comes about, and what Extra has to do with it, is for the caller. The errors are those of
// [Policy.Check] and [VerifyInclusion]; the checkpoint and its cosignatures are returned when there is none, or when
// nothing but the quorum is wanting.
func (f *ProofFile) Verify(p *Policy, leaf Hash) (Checkpoint, []Cosignature, error) {
	c, cosigs, err := p.Check(f.Checkpoint)
	var quorum *QuorumError
	if err != nil && !errors.As(err, &quorum) {
		return Checkpoint{}, nil, err
	}
	// A file that proves nothing is worse than one that lacks witnesses.
	if err := VerifyInclusion(leaf, f.Index, c.Size, c.Root, f.Proof); err != nil {
		return Checkpoint{}, nil, err
	}
	return c, cosigs, err
}
