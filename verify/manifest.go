package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

const (
	// ManifestType is the payload type of the envelope (DSSE 1.0.2) that a manifest is signed in.
	ManifestType = "application/vnd.tallystick.bundle-manifest+json"
	// ManifestFormat names the format of a manifest, in its first member.
	ManifestFormat = "tallystick-bundle-manifest/v1"
	// MaxManifest is the largest envelope, in bytes, that is read: one of a bundle of MaxEntries sessions fits.
	MaxManifest = 64 << 20
	// MaxManifestSignatures is the largest number of signatures in an envelope that is read.
	MaxManifestSignatures = 16
	// maxManifestName is the longest name of a bundle, and of who made it, in bytes.
	maxManifestName = 255

	manifestTime = "2006-01-02T15:04:05Z"
)

// The claims about a manifest.
const (
	ManifestReadable Claim = "manifest-readable" // it is an envelope with a manifest in it
	ManifestSigned   Claim = "manifest-signed"   // by a maker that the auditor named
	ManifestMatches  Claim = "manifest-matches"  // it speaks of this bundle, and says of it what is so
)

// A Manifest says who made a bundle, when, and of what: what the bundle itself does not say, since no log vouches for it. It
// is worth what its maker's signature is worth. MANIFEST.md has the format.
type Manifest struct {
	Name     string      // of the bundle's file, without a directory
	SHA256   tlog.Hash   // of all bytes of the file
	Size     int64       // of the file, in bytes, at most MaxBundle
	Origin   string      // the log's name
	TreeSize uint64      // of the bundle's checkpoint
	Root     tlog.Hash   // of the bundle's checkpoint
	Sessions []record.ID // in the order of the bundle
	MadeBy   string      // a person or a program, in its maker's words
	MadeAt   time.Time   // by its maker's clock, in whole seconds
}

// NewManifest describes a bundle, as it lies in a file of that name.
func NewManifest(name string, bundle []byte, by string, at time.Time) (*Manifest, error) {
	b, err := Parse(bundle)
	if err != nil {
		return nil, fmt.Errorf("manifest of %q: %w", name, err)
	}
	c, err := tlog.UnverifiedCheckpoint(b.Checkpoint)
	if err != nil {
		return nil, fmt.Errorf("manifest of %q: %w", name, err)
	}
	m := &Manifest{
		Name: name, SHA256: sha256.Sum256(bundle), Size: int64(len(bundle)), Origin: b.Origin, TreeSize: c.Size, Root: c.Root,
		Sessions: b.sessions(), MadeBy: by, MadeAt: at.UTC().Truncate(time.Second),
	}
	return m, m.check()
}

// sessions returns the ids.
func (b *Bundle) sessions() []record.ID {
	ids := make([]record.ID, len(b.Sessions))
	for i := range ids {
		ids[i] = b.Sessions[i].ID
	}
	return ids
}

// Append appends the manifest's one form: the payload that is signed, as ManifestType.
func (m *Manifest) Append(dst []byte) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	dst = append(dst, `{"format":"`+ManifestFormat+`","name":`...)
	dst = appendString(dst, []byte(m.Name))
	dst = append(dst, `,"sha256":"`...)
	dst = hex.AppendEncode(dst, m.SHA256[:])
	dst = strconv.AppendInt(append(dst, `","size":`...), m.Size, 10)
	dst = appendString(append(dst, `,"origin":`...), []byte(m.Origin))
	dst = strconv.AppendUint(append(dst, `,"checkpoint":{"size":`...), m.TreeSize, 10)
	dst = appendHash(append(dst, `,"root":`...), m.Root)
	dst = append(dst, `},"sessions":[`...)
	for i, id := range m.Sessions {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), id.String()...), '"')
	}
	dst = appendString(append(dst, `],"made_by":`...), []byte(m.MadeBy))
	dst = m.MadeAt.UTC().AppendFormat(append(dst, `,"made_at":"`...), manifestTime)
	return append(dst, `"}`...), nil
}

func (m *Manifest) check() error {
	switch {
	case !isLine(m.Name) || strings.ContainsAny(m.Name, `/\`) || m.Name == "." || m.Name == "..":
		return fmt.Errorf("verify: a manifest names a bundle by its file's name without a directory, 1 to %d bytes of text on one line, not %.100q", maxManifestName, m.Name)
	case !isLine(m.MadeBy):
		return fmt.Errorf("verify: a manifest says in 1 to %d bytes of text on one line who made the bundle, not %.100q", maxManifestName, m.MadeBy)
	case m.Size <= 0 || m.Size > MaxBundle:
		return fmt.Errorf("verify: a bundle has 1 to %d bytes, not %d", MaxBundle, m.Size)
	case m.TreeSize == 0:
		return errors.New("verify: a bundle's checkpoint is of a tree with entries")
	case len(m.Sessions) == 0 || len(m.Sessions) > MaxEntries:
		return fmt.Errorf("verify: a bundle has 1 to %d sessions, not %d", MaxEntries, len(m.Sessions))
	case slices.Contains(m.Sessions, record.ID{}):
		return errors.New("verify: a session in a manifest has an id")
	case m.MadeAt.Unix() <= 0 || m.MadeAt.UTC().Year() > 9999 || m.MadeAt.Nanosecond() != 0:
		return errors.New("verify: a manifest is made at a whole second after 1970 and before the year 10000")
	}
	return tlog.CheckOrigin(m.Origin)
}

// isLine says whether s is text, of a length that a name may have, without a line break or a tab.
func isLine(s string) bool {
	return s != "" && len(s) <= maxManifestName && record.IsText([]byte(s)) && !strings.ContainsAny(s, "\t\n\r")
}

// ParseManifest is the exact inverse of Append: it accepts the bytes that Append writes and no others.
func ParseManifest(payload []byte) (*Manifest, error) {
	var doc struct {
		Format     string `json:"format"`
		Name       string `json:"name"`
		SHA256     string `json:"sha256"`
		Size       int64  `json:"size"`
		Origin     string `json:"origin"`
		Checkpoint struct {
			Size uint64    `json:"size"`
			Root tlog.Hash `json:"root"`
		} `json:"checkpoint"`
		Sessions []record.ID `json:"sessions"`
		MadeBy   string      `json:"made_by"`
		MadeAt   string      `json:"made_at"`
	}
	if len(payload) > MaxManifest {
		return nil, fmt.Errorf("verify: a manifest of %d bytes is over the limit of %d", len(payload), MaxManifest)
	}
	if err := json.Unmarshal(payload, &doc); err != nil {
		return nil, fmt.Errorf("verify: not a manifest: %w", err)
	}
	if doc.Format != ManifestFormat {
		return nil, fmt.Errorf("verify: a manifest of the format %.60q; this program reads %s", doc.Format, ManifestFormat)
	}
	m := &Manifest{
		Name: doc.Name, Size: doc.Size, Origin: doc.Origin, TreeSize: doc.Checkpoint.Size, Root: doc.Checkpoint.Root, Sessions: doc.Sessions, MadeBy: doc.MadeBy,
	}
	sum, err := hex.DecodeString(doc.SHA256)
	if err != nil || len(sum) != len(m.SHA256) {
		return nil, fmt.Errorf("verify: a digest is 64 hex digits, not %.70q", doc.SHA256)
	}
	copy(m.SHA256[:], sum)
	if m.MadeAt, err = time.Parse(manifestTime, doc.MadeAt); err != nil {
		return nil, fmt.Errorf("verify: a manifest is made at a time such as 2026-11-02T09:30:00Z, not %.40q", doc.MadeAt)
	}
	// JSON has many spellings, and its decoder is lenient besides; a manifest has one.
	again, err := m.Append(nil)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, payload) {
		return nil, errors.New("verify: a manifest in another spelling than the one that manifests have")
	}
	return m, nil
}

// CheckManifest answers for a manifest, signed in its envelope, and the bundle of which it is said to be; the makers are the
// keys whose word the auditor takes, see [NewMakerVerifier]. The order is that of belief: nothing in the manifest is
// looked at before a maker's signature over it has been verified. One maker's is enough, and signatures that nobody can
// verify are passed over, as DSSE has it. What the bundle itself claims is for [Check] to judge.
//
// An error is an [*Unreadable].
func CheckManifest(envelope, bundle []byte, makers ...note.Verifier) (Report, error) {
	var r Report
	e, err := parseEnvelope(envelope)
	if err != nil {
		return r, r.unreadable(ManifestReadable, "manifest", err)
	}
	by := e.signers(makers)
	if len(by) == 0 {
		r.isFalse(ManifestSigned, "manifest", "by none of the %s that you named; it has %s", count(len(makers), "maker", "makers"), count(len(e.sigs), "signature", "signatures"))
		r.notProven("anything that the manifest says: it was not looked at")
		return r, nil
	}
	r.holds(ManifestSigned, "manifest", "by %s", strings.Join(by, ", "))
	m, err := ParseManifest(e.payload)
	if err != nil {
		return r, r.unreadable(ManifestReadable, "manifest", err)
	}
	r.holds(ManifestReadable, "manifest", "of %s, made at %s by %q", m.Name, stamp(m.MadeAt), m.MadeBy)
	if sum := sha256.Sum256(bundle); int64(len(bundle)) != m.Size || sum != m.SHA256 {
		r.isFalse(ManifestMatches, "bundle", "the manifest is of a file of %d bytes with the SHA-256 %x; this one has %d and %x", m.Size, m.SHA256[:], len(bundle), sum)
		return r, nil
	}
	b, err := Parse(bundle)
	if err != nil {
		return r, r.unreadable(ManifestMatches, "bundle", err)
	}
	r.is(ManifestMatches, "bundle", m.differs(b), "%d bytes, %s", m.Size, count(len(m.Sessions), "session", "sessions"))
	r.notProven("when the bundle was made, and by whom, but for its maker's word: no log holds the manifest")
	r.notProven("that the bundle holds all that there was: a manifest says what is in it")
	return r, nil
}

// differs says where the manifest says something else of the bundle's content than the bundle itself.
func (m *Manifest) differs(b *Bundle) error {
	c, err := tlog.UnverifiedCheckpoint(b.Checkpoint)
	switch {
	case err != nil:
		return err
	case b.Origin != m.Origin:
		return fmt.Errorf("the manifest says that the log is %q, and the bundle says %q", m.Origin, b.Origin)
	case c.Size != m.TreeSize || c.Root != m.Root:
		return fmt.Errorf("the manifest has a checkpoint of size %d and root %s, and the bundle one of size %d and root %s", m.TreeSize, m.Root, c.Size, c.Root)
	case !slices.Equal(b.sessions(), m.Sessions):
		return fmt.Errorf("the manifest has %s, and not those %d of the bundle in their order", count(len(m.Sessions), "session", "sessions"), len(b.Sessions))
	}
	return nil
}

// An envelope is one of DSSE, with nothing of it verified.
type envelope struct {
	payload []byte
	sigs    [][]byte
}

// preAuth is DSSE's PAE, which is what signatures sign.
func preAuth(kind string, payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(kind), kind, len(payload)), payload...)
}

// signers returns the keys by which the envelope is signed, in their order. Which key a signature says it is by is a hint
// that DSSE forbids to rely on; each is tried.
func (e envelope) signers(makers []note.Verifier) []string {
	var by []string
	msg := preAuth(ManifestType, e.payload)
	for _, k := range makers {
		if slices.ContainsFunc(e.sigs, func(sig []byte) bool { return k.Verify(msg, sig) }) {
			by = append(by, fmt.Sprintf("%s+%08x", k.Name(), k.KeyHash()))
		}
	}
	return by
}

// parseEnvelope reads an envelope of ManifestType. Unlike the manifest in it, an envelope is not ours: its specification has
// readers take any spelling of JSON, either alphabet of base64, and members that they do not know. What is refused
// is what readers would read differently: a member twice, or in another case.
func parseEnvelope(raw []byte) (envelope, error) {
	var e envelope
	if len(raw) > MaxManifest {
		return e, fmt.Errorf("%d bytes are over the limit of %d for a manifest", len(raw), MaxManifest)
	}
	if !utf8.Valid(raw) {
		return e, errors.New("the envelope is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	var payload, kind *string
	err := members(d, func(name string) (any, error) {
		switch name {
		case "payload":
			return &payload, once(payload == nil)
		case "payloadType":
			return &kind, once(kind == nil)
		case "signatures":
			return nil, errors.Join(once(e.sigs == nil), e.readSignatures(d))
		}
		return new(json.RawMessage), unlike(name, "payload", "payloadType", "signatures")
	})
	switch {
	case err != nil:
		return e, err
	case payload == nil || kind == nil || e.sigs == nil:
		return e, errors.New("an envelope has the members payload, payloadType and signatures")
	case *kind != ManifestType:
		return e, fmt.Errorf("the envelope holds %.100q, and a manifest is %s", *kind, ManifestType)
	}
	if _, err := d.Token(); err != io.EOF {
		return e, errors.New("something follows the envelope")
	}
	e.payload, err = decodeEither(*payload)
	return e, err
}

func (e *envelope) readSignatures(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.New("an envelope's signatures are a list")
	}
	e.sigs = [][]byte{}
	for d.More() {
		if len(e.sigs) == MaxManifestSignatures {
			return fmt.Errorf("an envelope with more than %d signatures", MaxManifestSignatures)
		}
		var sig, keyid *string
		err := members(d, func(name string) (any, error) {
			switch name {
			case "sig":
				return &sig, once(sig == nil)
			case "keyid":
				return &keyid, once(keyid == nil)
			}
			return new(json.RawMessage), unlike(name, "sig", "keyid")
		})
		if err != nil {
			return err
		}
		if sig == nil {
			return errors.New("a signature without the member sig")
		}
		raw, err := decodeEither(*sig)
		if err != nil {
			return err
		}
		e.sigs = append(e.sigs, raw)
	}
	_, err := d.Token()
	return err
}

// members reads a JSON object; for each member, at says where its value goes, or reads it and returns nil.
func members(d *json.Decoder, at func(name string) (any, error)) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("an envelope, and each of its signatures, is a JSON object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("an envelope is JSON: %w", err)
		}
		name, _ := t.(string) // the decoder takes nothing else for a name
		to, err := at(name)
		if err == nil && to != nil {
			err = d.Decode(to)
		}
		if err != nil {
			return fmt.Errorf("the member %.60q of an envelope: %w", name, err)
		}
	}
	_, err := d.Token()
	return err
}

func once(first bool) error {
	if !first {
		return errors.New("it comes twice")
	}
	return nil
}

// unlike refuses names that some reader would take for one of those known.
func unlike(name string, known ...string) error {
	for _, k := range known {
		if strings.EqualFold(name, k) {
			return fmt.Errorf("its name is %s", k)
		}
	}
	return nil
}

// decodeEither reads base64 of the standard or the URL alphabet, with padding, without line breaks and loose bits.
func decodeEither(s string) ([]byte, error) {
	enc := base64.StdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.URLEncoding
	}
	b, err := enc.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("what an envelope holds is base64 with padding, on one line")
	}
	return b, nil
}

// NewMakerVerifier returns what verifies manifests that the maker with this verifier key (c2sp.org/signed-note) has signed:
// one like a log's of type 0x01, Ed25519, or 0x02, ECDSA on P-256. One of type 0x06 signs nothing but checkpoints.
func NewMakerVerifier(vkey string) (note.Verifier, error) {
	v, err := tlog.NewLogVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("maker of bundles: %w", err)
	}
	// It has been parsed; the bytes are base64 and may have plus signs too.
	key, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil || key[0] == 0x06 {
		return nil, fmt.Errorf("verify: the key of the maker %q has type 0x06, which signs checkpoints alone; a maker has one of type 0x01 or 0x02", v.Name())
	}
	return v, nil
}
