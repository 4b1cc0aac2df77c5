package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
)

// inFlight is how many batches are built or on their way to the disk at once.
const inFlight = 2

// Open opens the log in dir, or makes a new one there.
//
// It returns an error where the place or the configuration is at fault: another process has the directory, it lies on a
// network file system, a newer program wrote it, or there is nothing yet and the anchor cannot be asked. Where the data
// is at fault it returns a log in quarantine, which serves reads: see [Log.Quarantined].
//
// The caller calls Run, and Close at the end.
func Open(dir string, cfg Config) (*Log, error) {
	if err := cfg.defaults(dir); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, dir: dir, start: time.Now(), broken: make(chan struct{}), committing: make(chan *flight, inFlight), idle: make(chan *flight, inFlight)}
	t, err := cfg.terms()
	if err != nil {
		return nil, err
	}
	l.terms.Store(t)
	l.queue.wake = make(chan struct{}, 1)
	l.cosigning.fresh, l.cosigning.answer = make(chan struct{}, 1), make(chan struct{}, 1)
	l.head = openHead(cfg.FS, cfg.Head, cfg.Origin)
	l.durable.Store(&state{0, tlog.EmptyRoot()})
	if cfg.ReadOnly {
		l.queue.close(fmt.Errorf("opened for reading only: %w", tlog.ErrClosed))
	}
	if err := l.begin(); err != nil {
		if l.db != nil {
			l.db.Close()
		}
		l.head.close()
		l.release()
		return nil, fmt.Errorf("log %s in %s: %w", cfg.Origin, dir, err)
	}
	return l, nil
}

func (l *Log) storeDir() string  { return l.cfg.FS.PathJoin(l.dir, "pebble") }
func (l *Log) safetyDir() string { return l.cfg.FS.PathJoin(l.dir, "safety") }

// begin is the start of a log. It looks before it writes: a read-write open by Pebble deletes files that a damaged
// manifest no longer names, a read-only one shows the loss and changes nothing.
//
//  1. lock the directory
//  2. open read-only, hash the newest entries again, compare with the head file, the anchor and the kept checkpoints
//  3. link all files of the store under a second name
//  4. open read-write, compare again
//  5. drop the second names
//
// A contradiction anywhere ends in quarantine, with the store open read-only where it could be opened.
func (l *Log) begin() error {
	fs := l.cfg.FS
	if err := l.takePlace(); err != nil {
		return err
	}
	headState, headErr := l.head.load()
	var damage *damageError
	if headErr != nil && !errors.Is(headErr, os.ErrNotExist) && !errors.As(headErr, &damage) {
		return headErr
	}
	known := sources{head: headState, headErr: headErr}
	if l.cfg.Latest != nil {
		known.anchor, known.anchorErr = l.load(context.Background())
	}
	marked, err := exists(fs, l.markPath())
	if err != nil {
		return err
	}
	desc, err := pebble.Peek(l.storeDir(), fs)
	if err != nil {
		return l.orQuarantine(err)
	}
	if !desc.Exists {
		if l.cfg.ReadOnly {
			return fmt.Errorf("there is no log: %w", os.ErrNotExist)
		}
		return l.orQuarantine(l.create(known))
	}
	if err := l.orQuarantine(l.openStore(true)); err != nil || l.Quarantined() != nil {
		return err
	}
	if err := l.orQuarantine(l.compare(known, marked)); err != nil || l.Quarantined() != nil || l.cfg.ReadOnly {
		return err
	}
	if err := l.db.Close(); err != nil {
		return err
	}
	l.db = nil
	if err := l.linkSafety(); err != nil {
		return fmt.Errorf("safety copy: %w", err)
	}
	if err := l.orQuarantine(l.openStore(false)); err != nil || l.Quarantined() != nil {
		return err
	}
	if err := l.orQuarantine(l.ready(known)); err != nil || l.Quarantined() != nil {
		return err
	}
	return l.dropSafety(marked)
}

// sources are who remembers the log beside its store.
type sources struct {
	head      state
	headErr   error // os.ErrNotExist or a damageError
	anchor    []byte
	anchorErr error
}

// takePlace makes the directories and locks them.
func (l *Log) takePlace() error {
	fs := l.cfg.FS
	if !l.cfg.ReadOnly {
		if err := fs.MkdirAll(l.storeDir(), 0o755); err != nil {
			return err
		}
		for _, dir := range []string{l.dir, fs.PathDir(l.dir)} {
			if err := syncDir(fs, dir); err != nil {
				return err
			}
		}
	}
	if vfs.Root(fs) == vfs.Default {
		if err := refuseNetwork(l.dir); err != nil {
			return err
		}
	}
	lock, err := pebble.LockDirectory(l.storeDir(), fs)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no log: %w", err)
	}
	if err != nil {
		return fmt.Errorf("another process has this log open (%v); stop it, or ask it", err)
	}
	l.lock = lock
	l.cache = pebble.NewCache(l.cfg.Cache)
	return nil
}

// orQuarantine turns what the data is to blame for into quarantine and passes on the rest. Everything that keeps Pebble
// from opening a store counts as the former: it may be damage, and nothing is lost by looking again.
func (l *Log) orQuarantine(err error) error {
	if err == nil || errors.Is(err, errFormat) || errors.Is(err, errPlace) {
		return err
	}
	d := &damageError{reason: err.Error()}
	errors.As(err, &d)
	l.quarantine(d)
	// For reading what can be read; when it cannot be, that is known already.
	if l.db == nil && l.openStore(true) == nil {
		if s, err := readState(l.db); err == nil {
			l.showKept(s)
		}
	}
	return nil
}

// errPlace marks what the operator can mend without touching data.
var errPlace = errors.New("nothing was changed")

// create makes an empty store, unless somebody remembers a log that is not empty.
func (l *Log) create(known sources) error {
	empty := state{0, tlog.EmptyRoot()}
	if known.anchorErr != nil {
		return fmt.Errorf("there is no store, and the anchor cannot be asked whether there was one: %w: %w", known.anchorErr, errPlace)
	}
	if known.headErr == nil && known.head.size > 0 {
		return &damageError{
			reason: fmt.Sprintf("the head file knows %d entries, and there is no store: its disk was lost or is not mounted", known.head.size),
			a:      empty.checkpoint(l.cfg.Origin).Text(), b: known.head.checkpoint(l.cfg.Origin).Text(),
		}
	}
	var damage *damageError
	if errors.As(known.headErr, &damage) {
		return damage
	}
	if len(known.anchor) > 0 {
		c, err := tlog.ParseCheckpoint(known.anchor)
		if err != nil || c.Size > 0 {
			return &damageError{
				reason: "the anchor remembers a checkpoint of this log, and there is no store: its disk was lost or is not mounted",
				a:      empty.checkpoint(l.cfg.Origin).Text(), b: known.anchor,
			}
		}
	}
	if known.headErr != nil {
		if err := l.head.create(empty); err != nil {
			return fmt.Errorf("head file: %w: %w", err, errPlace)
		}
		if _, err := l.head.load(); err != nil {
			return err
		}
	}
	if err := l.openStore(false); err != nil {
		return err
	}
	row := make([]byte, sizeRowLen)
	putSizeRow(row, empty, time.Now().UnixNano())
	b := l.db.NewBatch()
	defer b.Close()
	if err := b.Set(sizeKey(), row, nil); err != nil {
		return err
	}
	if err := l.write(l.db, b); err != nil {
		return err
	}
	// The first write-ahead log of a store has no marks of what was synced, and damage in it would go unseen.
	if err := l.db.Flush(); err != nil {
		return err
	}
	known.headErr, known.head = nil, empty
	return l.ready(known)
}

// openStore opens Pebble.
func (l *Log) openStore(readOnly bool) error {
	listener := l.listener()
	fs, closer := vfs.WithDiskHealthChecks(l.cfg.FS, 5*time.Second, nil, listener.DiskSlow)
	o := &pebble.Options{
		FS:       watchFS{vfs.OnDiskFull(fs, l.diskFull), func(err error) { l.ruin(fmt.Errorf("write-ahead log: %w", err)) }, &l.renew},
		ReadOnly: readOnly,
		Lock:     l.lock,
		Cache:    l.cache,
		Logger:   pebbleLogger{l},
		// The default is the oldest format, whose write-ahead log does not show what was synced.
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 4,
		LBaseMaxBytes:               256 << 20,
		// A flush always overlaps the one before in a few small rows, such as the size. Many of those at the top do not
		// slow what is read in earnest, which are ranges.
		L0CompactionThreshold: 20,
		L0StopWritesThreshold: 60,
		BytesPerSync:          512 << 10,
		EventListener:         listener,
	}
	// No file holds rows of two kinds. The large rows come in order, so their files never overlap and are moved down
	// unread; in one file with rows that do overlap they would be rewritten with them.
	o.Experimental.SpanPolicyFunc = func(start []byte) (pebble.SpanPolicy, []byte, error) {
		return pebble.SpanPolicy{}, after(start[0]), nil
	}
	// Payloads come compressed and sealed, hashes do not compress, and entries are mostly hashes.
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	db, err := pebble.Open(l.storeDir(), o)
	if err != nil {
		closer.Close()
		return fmt.Errorf("the store cannot be opened: %w", err)
	}
	l.db = db
	if l.closer != nil {
		l.closer()
	}
	l.closer = func() { closer.Close() }
	return nil
}

// readState reads the size row, which a store has from its first moment but for a crash in its making.
func readState(store pebble.Reader) (state, error) {
	v, err := get(store, sizeKey())
	if errors.Is(err, tlog.ErrNotFound) {
		return state{0, tlog.EmptyRoot()}, nil
	}
	if err != nil {
		return state{}, err
	}
	return parseSizeRow(v)
}

// compare holds the read-only store against itself and against all who remember it. A log that was in quarantine is
// checked whole.
func (l *Log) compare(known sources, whole bool) error {
	ctx := context.Background()
	d, err := readState(l.db)
	if err != nil {
		return err
	}
	l.showKept(d)
	indexed, err := readIndexed(l.db, d.size)
	if err != nil {
		return err
	}
	l.indexed.Store(indexed)
	if gone, err := anyRow(l.db, []byte{rowDiscarded}, after(rowDiscarded)); err != nil {
		return err
	} else if gone {
		l.discards.Store(1)
	}
	from := uint64(0)
	if d.size > l.cfg.Rehash {
		from = (d.size - l.cfg.Rehash) &^ (tlog.TileWidth - 1)
	}
	r, err := recountFrom(l.db, from)
	if err != nil {
		return err
	}
	found, err := r.extend(ctx, d.size)
	if err != nil {
		return err
	}
	if err := l.same("written", d, "found in the store", found); err != nil {
		return err
	}
	if err := nothingBehind(l.db, d.size); err != nil {
		return err
	}
	l.durable.Store(&d)
	l.publisher.recount, l.publisher.counted = r, d
	if err := l.showNewest(ctx); err != nil {
		return err
	}
	if err := l.agree(ctx, known); err != nil {
		return err
	}
	if whole {
		return l.examine(ctx, l.db, nil, nil)
	}
	return nil
}

// agree holds the store against the head file and the anchor.
func (l *Log) agree(ctx context.Context, known sources) error {
	d := l.durable.Load()
	switch {
	case known.headErr == nil:
		if err := l.continues(ctx, l.db, "the head file", known.head.checkpoint(l.cfg.Origin), known.head.checkpoint(l.cfg.Origin).Text()); err != nil {
			return err
		}
	case l.cfg.NewHead || l.cfg.ReadOnly && errors.Is(known.headErr, os.ErrNotExist):
	case !errors.Is(known.headErr, os.ErrNotExist):
		return known.headErr
	case d.size > 0:
		return &damageError{reason: fmt.Sprintf("the head file %s is gone, and the store has %d entries: put it back, or start once with a new one, --new-head", l.cfg.Head, d.size), a: d.checkpoint(l.cfg.Origin).Text()}
	}
	if l.cfg.Latest == nil {
		return nil
	}
	if known.anchorErr != nil {
		l.cfg.Logger.Warn("the anchor cannot be asked at start; nothing is signed before it can", "origin", l.cfg.Origin, "error", known.anchorErr)
		l.counts.anchorErrors.Add(1)
		l.anchoredUpTo(l.publisher.kept)
		return nil
	}
	return l.learn(ctx, l.db, known.anchor)
}

// nothingBehind says whether there are entries behind the size of the log. Parts of a large payload may lie there.
func nothingBehind(store pebble.Reader, size uint64) error {
	found, err := anyRow(store, entryKey(size), after(rowEntry))
	if err == nil && found {
		err = damagef("there are entries behind entry %d, the last by the size row", size)
	}
	return err
}

func anyRow(store pebble.Reader, lower, upper []byte) (bool, error) {
	it, err := store.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return false, err
	}
	defer it.Close()
	found := it.First()
	return found, it.Error()
}

// showKept shows the newest kept checkpoint that is ours, before it has been compared with anything: that is what
// a log in quarantine has to show, with those tiles that are full.
func (l *Log) showKept(d state) {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowCheckpoint}, UpperBound: checkpointKey(d.size + 1)})
	if err != nil {
		return
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		signed, err := it.ValueAndErr()
		if err != nil {
			return
		}
		if c, _, err := tlog.OpenCheckpoint(signed, l.terms.Load().all...); err == nil && c.Size == indexOf(it.Key()) && l.accepts(signed) {
			l.published.Store(&published{size: c.Size, signed: append([]byte(nil), signed...)})
			return
		}
	}
}

// showNewest shows the newest kept checkpoint that the policy accepts, after holding the store against it and against the
// newest of all. Nearly always that is one and the same, or the one before it.
func (l *Log) showNewest(ctx context.Context) error {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte{rowCheckpoint}, UpperBound: after(rowCheckpoint)})
	if err != nil {
		return err
	}
	defer it.Close()
	shown := false
	for ok := it.Last(); ok && !shown; ok = it.Prev() {
		size := indexOf(it.Key())
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		signed := append([]byte(nil), v...)
		c, _, err := tlog.OpenCheckpoint(signed, l.terms.Load().all...)
		if err == nil && c.Size != size {
			err = fmt.Errorf("it is of size %d", c.Size)
		}
		if err != nil {
			return &damageError{reason: fmt.Sprintf("the checkpoint kept for size %d is none of this log: %v", size, err), a: signed}
		}
		if err := l.continues(ctx, l.db, "the newest kept checkpoint", c, signed); err != nil {
			return err
		}
		view := &published{size: size, signed: signed, edge: l.publisher.recount.edge.clone()}
		if l.kept.Load() == nil {
			l.publisher.kept = size
			l.kept.Store(view)
		}
		if shown = l.accepts(signed); shown {
			l.published.Store(view)
		}
	}
	return it.Error()
}

// ready holds the store, now open for writing, against the same again, and prepares the sequencer.
func (l *Log) ready(known sources) error {
	ctx := context.Background()
	d, err := readState(l.db)
	if err != nil {
		return err
	}
	if r := l.publisher.recount; r != nil {
		if err := l.same("open for reading", *l.durable.Load(), "open for writing", d); err != nil {
			return err
		}
		if r, err = recountFrom(l.db, d.size&^(tlog.TileWidth-1)); err != nil {
			return err
		}
		found, err := r.extend(ctx, d.size)
		if err != nil {
			return err
		}
		if err := l.same("written", d, "found in the store", found); err != nil {
			return err
		}
		l.publisher.recount = r
	} else {
		r, err := recountFrom(l.db, 0)
		if err != nil {
			return err
		}
		l.publisher.recount, l.publisher.counted = r, d
	}
	if err := l.agree(ctx, known); err != nil {
		return err
	}
	if known.headErr != nil {
		if err := l.head.create(d); err != nil {
			return fmt.Errorf("head file: %w: %w", err, errPlace)
		}
		if _, err := l.head.load(); err != nil {
			return err
		}
	}
	if err := l.head.open(); err != nil {
		return fmt.Errorf("head file: %w: %w", err, errPlace)
	}
	// The store flushed and synced at open what it found, so all of it is durable.
	if err := l.head.write(d); err != nil {
		return err
	}
	if err := l.dropAhead(d.size); err != nil {
		return err
	}
	l.edge = *l.publisher.recount.edge.clone()
	l.publisher.fresh.from = d.size
	for range inFlight {
		l.idle <- &flight{batch: l.db.NewBatch(pebble.WithMaxRetainedSizeBytes(2 * maxBatchBytes))}
	}
	l.ballast()
	l.lookAtDisk()
	return nil
}

// dropAhead deletes the parts of large payloads whose leaves never came.
func (l *Log) dropAhead(size uint64) error {
	b := l.db.NewBatch()
	defer b.Close()
	if err := deleteRows(l.db, b, payloadKey(size, 0), after(rowPayload)); err != nil || b.Empty() {
		return err
	}
	return l.write(l.db, b)
}

// linkSafety gives every file of the store a second name, which Pebble does not know.
func (l *Log) linkSafety() error {
	fs := l.cfg.FS
	if err := fs.RemoveAll(l.safetyDir()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := fs.MkdirAll(l.safetyDir(), 0o755); err != nil {
		return err
	}
	names, err := fs.List(l.storeDir())
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "LOCK" || strings.HasSuffix(name, ".dbtmp") {
			continue
		}
		if err := fs.Link(fs.PathJoin(l.storeDir(), name), fs.PathJoin(l.safetyDir(), name)); err != nil {
			return err
		}
	}
	if err := syncDir(fs, l.safetyDir()); err != nil {
		return err
	}
	return syncDir(fs, l.dir)
}

// dropSafety ends the start: the second names go, and so does the mark of a quarantine that is over.
func (l *Log) dropSafety(marked bool) error {
	fs := l.cfg.FS
	if err := fs.RemoveAll(l.safetyDir()); err != nil {
		return err
	}
	if marked {
		if err := fs.Remove(l.markPath()); err != nil {
			return err
		}
		l.cfg.Logger.Warn("log out of quarantine: everything was checked and agrees", "origin", l.cfg.Origin)
	}
	return syncDir(fs, l.dir)
}

// ballast makes the file that an operator removes when a full disk must be given room to move. Without room for it
// there is none.
func (l *Log) ballast() {
	fs := l.cfg.FS
	usage, err := fs.GetDiskUsage(l.dir)
	if err != nil {
		return
	}
	size := l.cfg.Ballast
	if size == 0 && usage.TotalBytes >= 8<<30 {
		size = 64 << 20
	}
	path := fs.PathJoin(l.dir, "ballast")
	if there, err := exists(fs, path); err != nil || there || size <= 0 || usage.AvailBytes < uint64(2*size+max(l.cfg.MinFree, 0)) {
		return
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return
	}
	defer f.Close()
	if err := f.Preallocate(0, size); err != nil {
		l.cfg.Logger.Warn("no ballast", "origin", l.cfg.Origin, "error", err)
	}
}
