package local

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

// health is what is known of the disk.
type health struct {
	free  atomic.Uint64
	full  atomic.Bool
	wrote atomic.Int64 // bytes since the disk was last looked at
}

// admit says whether anything may come in. Nothing has been appended when it says no.
func (l *Log) admit() error {
	err := l.refuses()
	switch {
	case errors.Is(err, tlog.ErrFull):
		l.counts.full.Add(1)
	case err != nil:
		l.counts.busy.Add(1)
	}
	return err
}

// refuses says why nothing may come in now.
func (l *Log) refuses() error {
	if l.health.full.Load() {
		return fmt.Errorf("%d bytes left in %s, and %d are to stay free: %w", l.health.free.Load(), l.dir, l.cfg.MinFree, tlog.ErrFull)
	}
	p := &l.publisher
	behind := int64(l.Size() - p.anchored.Load())
	since := p.waiting.Load()
	if behind > int64(l.cfg.MaxUnanchored) || (since != 0 && l.now()-since > int64(l.cfg.MaxUnanchoredAge)) {
		return fmt.Errorf("%d entries are durable and not yet anchored: %w", behind, tlog.ErrBusy)
	}
	return nil
}

// watchDisk looks at the free space once a second. commit looks too, when it has written much.
func (l *Log) watchDisk(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		l.lookAtDisk()
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *Log) lookAtDisk() {
	l.health.wrote.Store(0)
	if l.cfg.MinFree < 0 {
		return
	}
	usage, err := l.cfg.FS.GetDiskUsage(l.dir)
	if err != nil {
		if !errors.Is(err, vfs.ErrUnsupported) {
			l.cfg.Logger.Warn("free space unknown", "origin", l.cfg.Origin, "error", err)
		}
		return
	}
	l.health.free.Store(usage.AvailBytes)
	full := usage.AvailBytes < uint64(l.cfg.MinFree)
	if l.health.full.Swap(full) != full {
		l.cfg.Logger.Warn("disk", "origin", l.cfg.Origin, "full", full, "free", usage.AvailBytes)
	}
}

// wrote counts bytes and looks at the disk when they could have filled a part of what is to stay free.
func (l *Log) wrote(n int) {
	if l.health.wrote.Add(int64(n)) > max(l.cfg.MinFree/8, 1<<20) {
		l.lookAtDisk()
	}
}

// diskFull is called by the file system when a write found no room. Pebble tries that write once more and then gives up.
func (l *Log) diskFull() {
	if !l.health.full.Swap(true) {
		l.cfg.Logger.Error("no space left on the store's disk", "origin", l.cfg.Origin, "dir", l.dir)
	}
}

// listener hears what Pebble says of its disk.
func (l *Log) listener() *pebble.EventListener {
	log := l.cfg.Logger
	return &pebble.EventListener{
		// With table files that cannot be written Pebble would go on acknowledging from the write-ahead log.
		BackgroundError: func(err error) {
			l.counts.backgroundErrors.Add(1)
			log.Error("store: background error", "origin", l.cfg.Origin, "error", err)
			l.halt(err)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			if l.Quarantined() != nil {
				return // every read of a damaged block comes here
			}
			l.quarantine(&damageError{reason: fmt.Sprintf("%s is damaged: %v", info.Path, info.Details)})
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			l.counts.diskSlow.Add(1)
			log.Warn("store: slow disk", "origin", l.cfg.Origin, "event", info.String())
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			l.counts.writeStalls.Add(1)
			log.Warn("store: writes held back", "origin", l.cfg.Origin, "reason", info.Reason)
		},
	}
}

// A pebbleLogger passes on what Pebble cannot live with and drops its chatter.
type pebbleLogger struct{ log *Log }

func (p pebbleLogger) Infof(string, ...any) {}

func (p pebbleLogger) Errorf(format string, args ...any) {
	p.log.cfg.Logger.Error("store", "origin", p.log.cfg.Origin, "error", fmt.Sprintf(format, args...))
}

// Fatalf answers everybody who waits, and does not return: Pebble may hold locks that nobody will ever release.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	p.log.ruin(errors.New(msg))
	p.log.cfg.Fatal("tlog/local: " + p.log.dir + ": " + msg)
	panic("tlog/local: Config.Fatal returned: " + msg)
}
