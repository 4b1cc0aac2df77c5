package bench

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/latest"
	"github.com/tallystick/tallystick/tlog/local"
)

// Append measures durable appends of the embedded log against raw Pebble: the same number of waiting producers, the same
// bytes, each producer committing its own batch with a sync, which Pebble groups as it can.
type Append struct {
	Dir       string        // on the disk to measure; a fresh directory is made in it for every round, and removed
	Producers int           // each waits for its leaf before it makes the next
	Entry     int           // bytes of an entry; 350 is typical
	Payload   int           // bytes of a payload
	Rounds    int           // of each, in turns
	Time      time.Duration // of a round
}

// Run measures. Checkpoints are made, anchored and signed all the while, as in earnest.
func (c Append) Run(ctx context.Context) (Result, error) {
	r := Result{Name: fmt.Sprintf("append %d B, %d producers", c.Entry+c.Payload, c.Producers), Unit: "leaf/s"}
	for range c.Rounds {
		for _, arm := range []struct {
			into *[]float64
			run  func(context.Context, string) (float64, error)
		}{{&r.Peer, c.raw}, {&r.Ours, c.log}} {
			dir, err := os.MkdirTemp(c.Dir, "tally-bench-")
			if err != nil {
				return r, err
			}
			rate, err := arm.run(ctx, dir)
			if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
				return r, err
			}
			*arm.into = append(*arm.into, rate)
		}
	}
	return r, nil
}

// produce runs the producers for the time of a round and returns how many appends a second returned.
func (c Append) produce(ctx context.Context, put func(ctx context.Context, n uint64, b []byte) error) (float64, error) {
	var done atomic.Uint64
	var failed atomic.Pointer[error]
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range c.Producers {
		all.Add(1)
		go func() {
			defer all.Done()
			b := make([]byte, c.Entry+c.Payload)
			rand.Read(b)
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Fresh bytes at the front of each half: no two entries and no two payloads are alike.
				n := done.Add(1)
				binary.BigEndian.PutUint64(b, n)
				binary.BigEndian.PutUint64(b[c.Entry:], n)
				if err := put(ctx, n, b); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
			}
		}()
	}
	begin := time.Now()
	select {
	case <-time.After(c.Time):
	case <-ctx.Done():
	}
	n, took := done.Load()-uint64(c.Producers), time.Since(begin)
	close(stop)
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n) / took.Seconds(), ctx.Err()
}

// raw is Pebble by itself, with the settings that the log uses.
func (c Append) raw(ctx context.Context, dir string) (float64, error) {
	o := &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest, MemTableSize: 64 << 20, MemTableStopWritesThreshold: 4, Logger: silent{},
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	db, err := pebble.Open(dir, o)
	if err != nil {
		return 0, err
	}
	rate, err := c.produce(ctx, func(_ context.Context, n uint64, b []byte) error {
		batch := db.NewBatch()
		defer batch.Close()
		if err := batch.Set(binary.BigEndian.AppendUint64(nil, n), b, nil); err != nil {
			return err
		}
		return batch.Commit(pebble.Sync)
	})
	return rate, errors.Join(err, db.Close())
}

type silent struct{}

func (silent) Infof(string, ...any)           {}
func (silent) Errorf(string, ...any)          {}
func (silent) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// log is the embedded log.
func (c Append) log(ctx context.Context, dir string) (float64, error) {
	l, close, err := openLog(ctx, dir)
	if err != nil {
		return 0, err
	}
	rate, err := c.produce(ctx, func(ctx context.Context, _ uint64, b []byte) error {
		_, err := l.Append(ctx, tlog.Leaf{Entry: b[:c.Entry], Payload: b[c.Entry:]})
		return err
	})
	return rate, errors.Join(err, close())
}

// openLog makes a log in a fresh directory and runs it; close ends it.
func openLog(ctx context.Context, dir string) (l *local.Log, close func() error, err error) {
	const origin = "bench.example/log"
	signer, err := file.Create(filepath.Join(dir, "log.key"), origin)
	if err != nil {
		return nil, nil, err
	}
	anchor, err := latest.Open(filepath.Join(dir, "anchor"))
	if err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
		return nil, nil, err
	}
	l, err = local.Open(filepath.Join(dir, "log"), local.Config{
		Origin: origin, Signer: signer, Verifier: signer.Verifier(), Latest: anchor, Head: filepath.Join(dir, "HEAD"),
	})
	if err != nil {
		return nil, nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	ran := make(chan error, 1)
	go func() { ran <- l.Run(run) }()
	return l, func() error {
		stop()
		return errors.Join(<-ran, l.Close())
	}, nil
}
