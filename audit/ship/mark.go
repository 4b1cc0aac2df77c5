package ship

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/tlog"
)

// A mark is how far shipping came: the next index, and the leaf hash of the entry before it, by which a log that was put back is
// known. Its file has a line of words and one with their digest:
//
//	tallystick-ship/v1 <origin> <next> <leaf hash>
//	<SHA-256 of the line before, its line break included, in hex>
//
// It is written beside itself, synced, and renamed. One that is damaged all the same is no mark: shipping begins at the beginning
// again, which those who receive it see by ids that come again, where to guess could leave a hole that nobody sees.
type mark struct {
	origin string
	next   uint64
	leaf   tlog.Hash // zero where nothing was shipped
}

const (
	markMagic = "tallystick-ship/v1"
	maxMark   = 4 << 10
)

// known is how many entries before next are known by their hash: 1, or 0 where nothing was shipped.
func (m mark) known() uint64 {
	if m.leaf == (tlog.Hash{}) {
		return 0
	}
	return 1
}

func (m mark) append(b []byte) []byte {
	from := len(b)
	b = fmt.Appendf(b, "%s %s %d %s\n", markMagic, m.origin, m.next, m.leaf)
	sum := sha256.Sum256(b[from:])
	return append(hex.AppendEncode(b, sum[:]), '\n')
}

var errDamaged = errors.New("ship: the mark is damaged")

// parseMark is the exact inverse of append.
func parseMark(b []byte) (mark, error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	words := strings.Split(string(line), " ")
	if len(words) != 4 || words[0] != markMagic {
		return mark{}, errDamaged
	}
	next, err := strconv.ParseUint(words[2], 10, 63)
	if err != nil {
		return mark{}, errDamaged
	}
	leaf, err := tlog.ParseHash(words[3])
	if err != nil {
		return mark{}, errDamaged
	}
	m := mark{words[1], next, leaf}
	if tlog.CheckOrigin(m.origin) != nil || !bytes.Equal(m.append(nil), b) {
		return mark{}, errDamaged
	}
	return m, nil
}

// load reads the mark for a log that has published c.
func (s *Shipper) load(c tlog.Checkpoint) (mark, error) {
	first := mark{origin: c.Origin, next: s.c.From}
	b, err := readSmall(s.c.Mark)
	if errors.Is(err, os.ErrNotExist) {
		return first, nil
	}
	if err != nil {
		return mark{}, fmt.Errorf("ship: mark: %w", err)
	}
	m, err := parseMark(b)
	switch {
	case err != nil:
		s.c.Logger.Error("a mark is damaged: everything is shipped again from the beginning", "ship", s.c.Name, "mark", s.c.Mark)
		return mark{origin: c.Origin}, nil
	case m.origin != c.Origin:
		return mark{}, fmt.Errorf("%w: the mark %s is about %s, and the log is %s", ErrHistory, s.c.Mark, m.origin, c.Origin)
	case m.next > c.Size:
		return mark{}, fmt.Errorf("%w: by the mark %s %d entries of %s were shipped, and it has %d", ErrHistory, s.c.Mark, m.next, c.Origin, c.Size)
	}
	return m, nil
}

func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxMark {
		return nil, nil // no mark is that long
	}
	return os.ReadFile(path)
}

// save is on the disk when it returns.
func (m mark) save(path string) error {
	err := write(path+".new", m.append(nil))
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("ship: mark: %w", err)
	}
	return nil
}

func write(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
