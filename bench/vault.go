package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/keys/vault"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/record"
)

// Vault measures what it costs to keep things in a Vault. It comes as an administrator, to engines transit/ and secret/
// (KV v2), and leaves the keys tally-bench and tally-bench-tenant there, and an anchor for each run.
type Vault struct {
	Vault  vault.Config
	Dir    string // as Append's
	Rounds int    // of each arm, in turns
	Time   time.Duration
}

// prepare makes the keys and an anchor for a log that nobody has seen.
func (v Vault) prepare(ctx context.Context) (c *vault.Client, done vault.Ready, s vault.Setup, err error) {
	if c, err = vault.New(v.Vault); err != nil {
		return nil, done, s, err
	}
	at := func(path string) keys.Reference { return keys.Reference{Scheme: keys.SchemeVault, Path: path} }
	s = vault.Setup{
		Origin: "bench.example/" + rand.Text(), Signer: at("transit/tally-bench"), Anchor: at("secret/tally-bench"), KEK: at("transit/tally-bench-tenant"),
		NoPolicies: true,
	}
	done, err = c.Init(ctx, s)
	return c, done, s, err
}

// Checkpoint measures checkpoints, anchored and signed one after another as a log does it, with anchor and key in Vault
// against an anchor on the disk and a key in this process.
type Checkpoint struct{ Vault }

// Run measures checkpoints a second, and in the note how long Vault takes to sign one, and to anchor it.
func (c Checkpoint) Run(ctx context.Context) (Result, error) {
	r := Result{Name: "checkpoint, in Vault", Unit: "ckpt/s"}
	client, done, s, err := c.prepare(ctx)
	if err != nil {
		return r, err
	}
	anchor, err := client.Latest(s.Anchor)
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp(c.Dir, "tally-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	key, err := file.Create(filepath.Join(dir, "log.key"), s.Origin)
	if err != nil {
		return r, err
	}
	near, err := latest.Open(filepath.Join(dir, "anchor"))
	if err != nil {
		return r, err
	}
	ours := &checkpoints{origin: s.Origin, anchor: anchor, sign: func(c tlog.Checkpoint) ([]byte, error) { return tlog.SignCheckpoint(c, done.Signer) }}
	peer := &checkpoints{origin: s.Origin, anchor: near, sign: func(c tlog.Checkpoint) ([]byte, error) { return tlog.SignCheckpoint(c, key) }}
	for range c.Rounds {
		for _, arm := range []struct {
			by   *checkpoints
			rate *[]float64
		}{{peer, &r.Peer}, {ours, &r.Ours}} {
			rate, err := repeat(ctx, 1, c.Time, arm.by.next)
			if err != nil {
				return r, err
			}
			*arm.rate = append(*arm.rate, rate)
		}
	}
	r.Note = fmt.Sprintf("sign p50 %v, p99 %v against %v, %v; anchor p50 %v, p99 %v against %v, %v",
		short(percentile(ours.signing, 50)), short(percentile(ours.signing, 99)), short(percentile(peer.signing, 50)), short(percentile(peer.signing, 99)),
		short(percentile(ours.anchoring, 50)), short(percentile(ours.anchoring, 99)), short(percentile(peer.anchoring, 50)), short(percentile(peer.anchoring, 99)))
	return r, nil
}

func short(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// checkpoints makes one after another.
type checkpoints struct {
	origin             string
	anchor             tlog.Latest
	sign               func(tlog.Checkpoint) ([]byte, error)
	size               uint64
	last               []byte
	anchoring, signing []time.Duration
}

func (c *checkpoints) next(ctx context.Context) error {
	c.size++
	cp := tlog.Checkpoint{Origin: c.origin, Size: c.size, Root: tlog.HashLeaf(fmt.Append(nil, c.size))}
	begin := time.Now()
	if err := c.anchor.Swap(ctx, c.origin, c.last, cp.Text()); err != nil {
		return err
	}
	anchored := time.Now()
	if _, err := c.sign(cp); err != nil {
		return err
	}
	c.last = cp.Text()
	c.anchoring, c.signing = append(c.anchoring, anchored.Sub(begin)), append(c.signing, time.Since(anchored))
	return nil
}

// Seal measures records that are sealed, each under a key of its own: by a ring, which asks Vault once an epoch, against a
// key that is wrapped in Vault for each record.
type Seal struct {
	Vault
	Sealers int // at once
	Body    int // bytes of the body of a record
}

// Run measures records a second.
func (c Seal) Run(ctx context.Context) (Result, error) {
	r := Result{Name: fmt.Sprintf("seal %d B, keys in Vault, %d sealers", c.Body, c.Sealers), Unit: "record/s", Note: "ours with the ring's cache, the peer without"}
	client, _, s, err := c.prepare(ctx)
	if err != nil {
		return r, err
	}
	kek, err := client.KEK(s.KEK)
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp(c.Dir, "tally-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	kept, err := ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: kek})
	if err != nil {
		return r, err
	}
	run, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- kept.Run(run) }()
	err = c.measure(ctx, kept, kek, &r)
	stop()
	return r, errors.Join(err, <-ran, kept.Close())
}

func (c Seal) measure(ctx context.Context, kept *ring.Ring, kek *vault.KEK, r *Result) error {
	coder, err := record.NewCoder(c.Sealers)
	if err != nil {
		return err
	}
	body := bytes.Repeat([]byte("What is a tally stick, and who keeps the other half? "), c.Body/53+1)[:c.Body]
	seal := func(key []byte, name string) error {
		id := record.NewID(time.Now())
		var rec record.Record
		rec.Add(record.FieldSession, []byte(id.String()))
		rec.Add(record.FieldBody, body)
		_, err := coder.Seal(rec, key, name, record.Binding{Kind: record.Request, Session: id, Root: rec.Root()})
		return err
	}
	for range c.Rounds {
		for _, arm := range []struct {
			rate *[]float64
			next func(context.Context) error
		}{
			{&r.Peer, func(ctx context.Context) error {
				key, _, err := kek.NewDataKey(ctx, []byte("tally-bench"))
				if err != nil {
					return err
				}
				return seal(key, "tally-bench")
			}},
			{&r.Ours, func(ctx context.Context) error {
				name, key, err := ring.ByName{Ring: kept}.New(ctx)
				if err != nil {
					return err
				}
				return seal(key, name)
			}},
		} {
			rate, err := repeat(ctx, c.Sealers, c.Time, arm.next)
			if err != nil {
				return err
			}
			*arm.rate = append(*arm.rate, rate)
		}
	}
	return nil
}

// repeat has workers do something over and over for the time of a round, and returns how often a second it was done.
func repeat(ctx context.Context, workers int, each time.Duration, do func(context.Context) error) (float64, error) {
	var mu sync.Mutex
	var n int
	var first error
	var all sync.WaitGroup
	begin := time.Now()
	for range workers {
		all.Go(func() {
			mine := 0
			var err error
			for err == nil && time.Since(begin) < each {
				if err = do(ctx); err == nil {
					mine++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			n += mine
			if first == nil {
				first = err
			}
		})
	}
	all.Wait()
	return float64(n) / time.Since(begin).Seconds(), first
}
