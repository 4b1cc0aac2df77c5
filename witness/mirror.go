package witness

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// MirrorConfig says which log is pushed to which mirror. Policy, Origin, Reader, Keys and Submission are needed; the rest has
// defaults.
type MirrorConfig struct {
	// Policy has the log's keys, and says which of its checkpoints are pushed: those that it accepts. With the quorum "none"
	// these are all that the log signed and published.
	Policy *tlog.Policy
	// Origin is the log.
	Origin string
	// Reader is where the log publishes. Nothing that it returns is believed: the mirror verifies every entry.
	Reader tlog.Reader

	// Keys are the mirror's verifier keys.
	Keys []string
	// Submission and Monitoring are the mirror's prefixes. Monitoring is by default the same.
	Submission, Monitoring string

	// Interval is the time between two looks at the log, by default 10 s.
	Interval time.Duration
	// Backoff is the longest pause after failures in a row, by default 5 min. It begins at Interval and doubles.
	Backoff time.Duration
	// Timeout is the longest that one request takes, by default 5 min: an upload has up to 8 MiB before compression.
	Timeout time.Duration
	// Packages is how many packages of up to 256 entries one upload has at most, by default 32.
	Packages int
	// Skew is how far the time that a cosignature states may be from now, by default 10 min.
	Skew time.Duration

	// Client carries requests, as in QuorumConfig.
	Client *http.Client
	// Log is told what fails. nil for nobody.
	Log *slog.Logger
}

// maxUpload is at how many bytes of entries an upload ends, be it after its first package.
const maxUpload = 8 << 20

// maxIdle is how often a mirror may answer an upload without having taken anything.
const maxIdle = 3

// A Mirror pushes a log to a mirror (the client of c2sp.org/tlog-mirror, a draft): its published checkpoints, and the
// entries that the mirror lacks. What the mirror then cosigns says that it stores and shows them all.
//
// The mirror says how far it is; an upload that was cut off goes on from there, also in another process. A mirror that has
// more than the log shows is an error and no fork: what a log shows may be late. One whose own checkpoint the log signed
// and does not continue is a *tlog.ForkError. It is safe for concurrent use, one push at a time.
type Mirror struct {
	c      MirrorConfig
	policy *tlog.Policy // of the log's keys and the mirror's
	keys   map[keyID]bool

	turn    sync.Mutex // held while something is pushed
	pending uint64     // the size of the checkpoint that the mirror is known to have been offered
	done    []byte     // the newest checkpoint that it cosigned, as Push returned it
	doneOf  string     // its text

	mu    sync.Mutex
	stats Status
}

// NewMirror checks the configuration. It asks nobody.
func NewMirror(c MirrorConfig) (*Mirror, error) {
	if c.Policy == nil || c.Reader == nil || len(c.Keys) == 0 {
		return nil, errors.New("witness: a mirror needs a policy with the log's key, a log to read, and the mirror's keys")
	}
	c.Interval = cmp.Or(c.Interval, 10*time.Second)
	c.Backoff = max(cmp.Or(c.Backoff, 5*time.Minute), c.Interval)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Minute)
	c.Packages = cmp.Or(c.Packages, 32)
	c.Skew = cmp.Or(c.Skew, 10*time.Minute)
	c.Client = newClient(c.Client)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.Submission, err = checkPrefix(c.Submission); err != nil {
		return nil, fmt.Errorf("witness: the mirror's submission prefix: %w", err)
	}
	if c.Monitoring, err = checkPrefix(cmp.Or(c.Monitoring, c.Submission)); err != nil {
		return nil, fmt.Errorf("witness: the mirror's monitoring prefix: %w", err)
	}
	m := &Mirror{c: c, keys: make(map[keyID]bool)}
	var text []byte
	for _, l := range c.Policy.Logs() {
		if l.Origin == c.Origin {
			text = fmt.Appendf(text, "log %s\n", l.Key)
		}
	}
	if text == nil {
		return nil, fmt.Errorf("witness: the policy has no log %q; add a log line with its key", c.Origin)
	}
	for i, key := range c.Keys {
		v, err := tlog.NewCosignatureVerifier(key)
		if err != nil {
			return nil, fmt.Errorf("witness: the mirror's key: %w", err)
		}
		m.keys[keyID{v.Name(), v.KeyHash()}] = true
		m.stats.Name = v.Name()
		text = fmt.Appendf(text, "witness m%d %s\n", i, key)
	}
	if m.policy, err = tlog.ParsePolicy(append(text, "quorum none\n"...)); err != nil {
		return nil, fmt.Errorf("witness: the keys of the log and the mirror: %w", err)
	}
	return m, nil
}

// String names the mirror.
func (m *Mirror) String() string { return "the mirror " + m.stats.Name }

// Run pushes what the log publishes until ctx ends, and then returns nil. What fails is tried again, at a slower pace;
// only a *tlog.ForkError ends it.
func (m *Mirror) Run(ctx context.Context) error {
	for failures := 0; ; {
		_, err := m.Push(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.As(err, new(*tlog.ForkError)) {
			return err
		}
		again := m.c.Interval
		if err == nil {
			failures = 0
		} else {
			failures++
			again = pause(m.c.Interval, m.c.Backoff, failures)
			m.c.Log.Warn("a mirror was not brought up to date", "mirror", m.stats.Name, "origin", m.c.Origin, "again", again, "err", err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil
		}
	}
}

// Stats returns how the mirror does.
func (m *Mirror) Stats() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats
}

// Push brings the mirror to the newest checkpoint that the log publishes, and returns that with the log's signatures and
// the mirror's cosignatures. The order is that of the specification: first the checkpoint, then the entries, from where
// the mirror is.
func (m *Mirror) Push(ctx context.Context) ([]byte, error) {
	m.turn.Lock()
	defer m.turn.Unlock()
	signed, err := m.push(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stats.Err = err; err == nil {
		m.stats.Failures = 0
		return signed, nil
	}
	m.stats.Failures++
	if errors.As(err, new(*lapse)) {
		m.stats.Faults++
	}
	return nil, err
}

func (m *Mirror) push(ctx context.Context) ([]byte, error) {
	signed, err := m.c.Reader.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("the log's checkpoint: %w", err)
	}
	if _, _, err := m.c.Policy.Check(signed); err != nil {
		return nil, err
	}
	o, err := newOffer(m.c.Policy, m.c.Origin, signed)
	if err != nil || o.text == m.doneOf {
		return m.done, err
	}
	ts := tlog.Tiles{Reader: m.c.Reader, Size: o.c.Size}
	if err := m.offer(ctx, o, ts); err != nil {
		return nil, fmt.Errorf("%s, offered the checkpoint of size %d: %w", m, o.c.Size, err)
	}
	lines, err := m.upload(ctx, o, ts)
	if err != nil {
		return nil, fmt.Errorf("%s, given entries up to %d: %w", m, o.c.Size, err)
	}
	m.done, m.doneOf = slices.Concat(append([][]byte{o.signed}, lines...)...), o.text
	return m.done, nil
}

// offer makes the checkpoint the mirror's pending one.
func (m *Mirror) offer(ctx context.Context, o offer, ts tlog.Tiles) error {
	ahead := func(size uint64) error {
		return fmt.Errorf("it has been offered %d entries; the log shows an old view of itself, or was put back", size)
	}
	for range 1 + maxRetries {
		if m.pending > o.c.Size {
			return ahead(m.pending)
		}
		proof, err := ts.Consistency(ctx, m.pending)
		if err != nil {
			return err
		}
		resp, err := m.send(ctx, http.MethodPost, m.c.Submission+"/add-checkpoint", (&addCheckpoint{old: m.pending, proof: proof, signed: o.signed}).append(nil), nil)
		if err != nil {
			return err
		}
		switch resp.status {
		case http.StatusOK:
			m.pending = o.c.Size
			return nil
		case http.StatusConflict:
			size, err := resp.size()
			if err != nil {
				return &lapse{what: err.Error()}
			}
			if size > o.c.Size {
				return ahead(size) // and not noted: it may be wrong
			}
			m.pending = size
		case http.StatusUnprocessableEntity:
			what := fmt.Sprintf("it says that this does not continue its pending checkpoint of size %d", m.pending)
			get := func(url string) (*response, error) { return m.send(ctx, http.MethodGet, url, nil, nil) }
			known := func() uint64 { return math.MaxUint64 } // the log goes on, and everybody may show what it has published since
			fork, why := evidence(get, m.policy, o, m, m.c.Monitoring, what, known, func(old uint64) (tlog.Proof, error) { return ts.Consistency(ctx, old) })
			if fork != nil {
				return fork
			}
			return &lapse{what: what + "; " + why}
		default:
			return resp.unexpected()
		}
	}
	return &lapse{what: fmt.Sprintf("it said another size %d times", 1+maxRetries)}
}

// upload gives the mirror the entries that it lacks, and returns its cosignatures. The first request has no entries:
// either that is all that it lacks, or it says where to begin.
func (m *Mirror) upload(ctx context.Context, o offer, ts tlog.Tiles) ([][]byte, error) {
	at := mirrorInfo{size: o.c.Size, next: o.c.Size}
	for idle := 0; ; {
		body, err := m.packages(ctx, at, ts)
		if err != nil {
			return nil, err
		}
		resp, err := m.send(ctx, http.MethodPost, m.c.Submission+"/add-entries", body, http.Header{
			"Content-Type": {"application/octet-stream"}, "Content-Encoding": {"gzip"}})
		if err != nil {
			return nil, err
		}
		switch resp.status {
		case http.StatusOK:
			lines, stated, err := cosignatures(m.policy, m.keys, o, resp.body, m.c.Skew)
			if err != nil {
				return nil, &lapse{what: err.Error()}
			}
			m.mu.Lock()
			m.stats.Size, m.stats.Cosigned = o.c.Size, time.Unix(int64(stated), 0)
			m.mu.Unlock()
			return lines, nil
		case http.StatusAccepted, http.StatusConflict:
			info, err := parseMirrorInfo(resp)
			switch {
			case err != nil:
				return nil, &lapse{what: err.Error()}
			case info.size != o.c.Size:
				return nil, fmt.Errorf("its pending checkpoint is now of size %d: somebody else pushes too", info.size)
			case info.next > o.c.Size:
				return nil, &lapse{what: fmt.Sprintf("it says that it has %d entries of %d", info.next, o.c.Size)}
			}
			if resp.status == http.StatusAccepted && info.next > at.next {
				idle = 0
			} else if idle++; idle > maxIdle {
				return nil, &lapse{what: fmt.Sprintf("it is at entry %d and takes no more", info.next)}
			}
			at = info
		default:
			return nil, resp.unexpected()
		}
	}
}

// packages writes the body of an add-entries request, compressed: as many packages from where the mirror is as one request
// may have.
func (m *Mirror) packages(ctx context.Context, at mirrorInfo, ts tlog.Tiles) ([]byte, error) {
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	head := binary.BigEndian.AppendUint16(nil, uint16(len(m.c.Origin)))
	head = append(head, m.c.Origin...)
	head = binary.BigEndian.AppendUint64(head, at.next)
	head = binary.BigEndian.AppendUint64(head, at.size)
	head = binary.BigEndian.AppendUint16(head, uint16(len(at.ticket)))
	head = append(head, at.ticket...)
	zip.Write(head) // into memory: nothing to fail
	written := 0
	for n := 0; at.next < at.size && n < m.c.Packages && written < maxUpload; n++ {
		p, end, err := onePackage(ctx, at.next, ts)
		if err != nil {
			return nil, err
		}
		zip.Write(p)
		written += len(p)
		at.next = end
	}
	zip.Close()
	return b.Bytes(), nil
}

// onePackage returns the package that begins at start, and where it ends.
func onePackage(ctx context.Context, start uint64, ts tlog.Tiles) ([]byte, uint64, error) {
	t := tlog.TileAt(tlog.EntriesLevel, start, ts.Size)
	first := t.Index * tlog.TileWidth
	end := first + uint64(t.Width)
	data, err := tlog.ReadTile(ctx, ts.Reader, t)
	if err != nil {
		return nil, 0, err
	}
	entries, err := tlog.ParseBundle(data, t.Width)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", t.Path(), err)
	}
	var p []byte
	for _, e := range entries[start-first:] {
		p = tlog.AppendBundleEntry(p, e)
	}
	proof, err := ts.SubtreeConsistency(ctx, first, end)
	if err != nil {
		return nil, 0, err
	}
	p = append(p, byte(len(proof))) // at most 63
	for _, h := range proof {
		p = append(p, h[:]...)
	}
	return p, end, nil
}

// send makes a request that lasts Timeout at most.
func (m *Mirror) send(ctx context.Context, method, url string, body []byte, header http.Header) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, m.c.Timeout)
	defer cancel()
	return exchange(ctx, m.c.Client, method, url, body, header)
}

// A mirrorInfo is where a mirror is: text/x.tlog.mirror-info.
type mirrorInfo struct {
	size   uint64 // of a pending checkpoint
	next   uint64 // the first entry that it lacks
	ticket []byte // for the mirror
}

func (i mirrorInfo) append(b []byte) []byte {
	b = fmt.Appendf(b, "%d\n%d\n", i.size, i.next)
	return append(base64.StdEncoding.AppendEncode(b, i.ticket), '\n')
}

// parseMirrorInfo reads exactly what append writes.
func parseMirrorInfo(r *response) (mirrorInfo, error) {
	var i mirrorInfo
	if r.kind != "text/x.tlog.mirror-info" {
		return i, fmt.Errorf("it answers %d with the content type %.40q, which does not say where it is", r.status, r.kind)
	}
	bad := fmt.Errorf("it answers %d with %.60q, which does not say where it is", r.status, r.body)
	lines := strings.Split(string(r.body), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return i, bad
	}
	var errs [3]error
	i.size, errs[0] = parseSize(lines[0])
	i.next, errs[1] = parseSize(lines[1])
	i.ticket, errs[2] = base64.StdEncoding.Strict().DecodeString(lines[2])
	if errors.Join(errs[:]...) != nil || len(i.ticket) > math.MaxUint16 || !bytes.Equal(i.append(nil), r.body) {
		return i, bad
	}
	return i, nil
}
