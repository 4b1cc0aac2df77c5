// Package original seals what a record does not hold as it was, for the few who may see it in an emergency.
//
// The masker takes values out of what is recorded. Where that is wanted, the exact bytes are put beside it, encrypted with age
// (age-encryption.org/v1) to recipients whose identities nobody here has. FORMAT.md §3.2 has the field. What is always true:
//
//   - whoever seals cannot open: there is no identity in the gateway, and a [Sealer] has none;
//   - an original is a field of the record, so that it is committed to, sealed under the session's data key, and erased with
//     the rest, whoever holds an identity;
//   - of what is not wholly authentic nothing is opened, not even its beginning.
package original

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

const (
	// MaxRecipients is the largest number of recipients that a file is sealed to, and of those that one is opened with.
	MaxRecipients = 20

	// maxIdentities is the largest file of identities, in bytes.
	maxIdentities = 64 << 10
)

// ErrNotFor says that none of the identities is one that the original was sealed to: ask somebody else for it.
var ErrNotFor = errors.New("original: it is sealed to others than this identity")

// A Sealer seals originals to recipients. A nil Sealer seals nothing. Safe for concurrent use.
type Sealer struct{ recipients []age.Recipient }

// NewSealer returns a sealer for 1 to MaxRecipients recipients, each of which can open what it seals alone: age1…, or age1pq1… for
// those that hold against a quantum computer, and all of one kind, because a file is as weak as its weakest recipient.
func NewSealer(recipients []string) (*Sealer, error) {
	if len(recipients) == 0 || len(recipients) > MaxRecipients {
		return nil, fmt.Errorf("original: %d recipients; there are 1 to %d", len(recipients), MaxRecipients)
	}
	s := &Sealer{}
	for i, text := range recipients {
		var r age.Recipient
		var err error
		if strings.HasPrefix(text, "age1pq1") {
			r, err = age.ParseHybridRecipient(text)
		} else {
			r, err = age.ParseX25519Recipient(text)
		}
		if err != nil {
			// The text is not repeated: it may be an identity, in the wrong place.
			return nil, fmt.Errorf("original: recipient %d is none: it begins with age1, as `age-keygen -y` prints it", i+1)
		}
		s.recipients = append(s.recipients, r)
	}
	if _, err := s.seal(nil); err != nil {
		return nil, fmt.Errorf("original: these recipients cannot be used together: %w", err)
	}
	return s, nil
}

// Add appends to a record, which has a field of that name already, what the field would hold if nothing had been masked. It does
// nothing where the field holds just that. An original costs its length again, and 200 bytes or, for age1pq1…, 2 KB for each recipient.
func (s *Sealer) Add(r *record.Record, name string, exact []byte) error {
	if s == nil {
		return nil
	}
	masked, ok := r.Get(name)
	if !ok || strings.HasPrefix(name, record.FieldOriginal) || record.CheckName(record.FieldOriginal+name) != nil {
		return fmt.Errorf("original: no field %.80q can have one", name)
	}
	if bytes.Equal(masked, exact) {
		return nil
	}
	sealed, err := s.seal(exact)
	if err != nil {
		return fmt.Errorf("original of %q: %w", name, err)
	}
	r.Add(record.FieldOriginal+name, sealed)
	return nil
}

func (s *Sealer) seal(exact []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, s.recipients...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(exact); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// An Identity opens what was sealed to its recipient. It never leaves the process that read it.
type Identity struct{ identities []age.Identity }

// ParseIdentity reads a file as `age-keygen` writes it: one secret key or more, each on its line. Errors do not repeat it.
func ParseIdentity(r io.Reader) (Identity, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxIdentities+1))
	if err != nil {
		return Identity{}, err
	}
	defer clear(b)
	if len(b) > maxIdentities {
		return Identity{}, fmt.Errorf("original: an identity file has at most %d bytes: %w", maxIdentities, tlog.ErrTooLarge)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil || len(ids) > MaxRecipients {
		return Identity{}, errors.New("original: not an identity file, in which each line is AGE-SECRET-KEY-… or begins with #, as `age-keygen` writes it")
	}
	return Identity{ids}, nil
}

// Open returns what an original holds: all of it, once it is known to be whole. ErrNotFor is the answer to an identity that it was not
// sealed to.
func (i Identity) Open(sealed []byte) ([]byte, error) {
	if len(i.identities) == 0 {
		return nil, ErrNotFor
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), i.identities...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return nil, ErrNotFor
	case err != nil:
		return nil, fmt.Errorf("original: it is no age file, or was changed: %w", err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		clear(b)
		return nil, fmt.Errorf("original: it was changed or cut off: %w", err)
	}
	return b, nil
}
