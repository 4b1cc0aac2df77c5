package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/search"
	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/keys/ring"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Search measures the index of sessions: how fast it is made, how large it is, how long searches take in it, the worst of them
// too, and how far it lags behind a log that grows. It has no peer in the run: what it is held against is what we promise, 200 ms for
// a search by fields and 1 s for one by phrases among a million sessions.
type Search struct {
	Dir      string        // on the disk to measure; a fresh directory is made in it, and removed
	Keep     string        // a directory in which the index is kept instead, and taken from, if it is there
	Sessions int           // in the index
	Queries  int           // of each kind
	Rates    []int         // sessions a second that a log takes in while an index follows it
	Time     time.Duration // for each of the rates
}

// Run measures, and writes what it finds out as it goes.
func (c Search) Run(ctx context.Context, out io.Writer) (err error) {
	dir := c.Keep
	if dir == "" {
		if dir, err = os.MkdirTemp(c.Dir, "tally-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if c.Sessions > 0 {
		if err := c.million(ctx, out, dir); err != nil {
			return err
		}
	}
	for _, rate := range c.Rates {
		if err := c.follow(ctx, out, filepath.Join(dir, fmt.Sprint("log-", rate)), rate); err != nil {
			return err
		}
	}
	return nil
}

// openRing opens a ring of data keys, or makes one.
func openRing(dir string) (*ring.Ring, error) {
	path := filepath.Join(dir, "kek.key")
	kek, err := file.LoadKEK(path)
	if errors.Is(err, fs.ErrNotExist) {
		kek, err = file.CreateKEK(path)
	}
	if err != nil {
		return nil, err
	}
	return ring.Open(filepath.Join(dir, "ring"), ring.Config{KEK: kek})
}

// deskKeys are the keys of a desk in a bench, which seals none of them anew.
type deskKeys struct{ ring.ByName }

func (deskKeys) Rewrap(context.Context) (string, error) { return "", errors.ErrUnsupported }

// million fills an index with sessions as Run takes them from a log, and searches in it.
func (c Search) million(ctx context.Context, out io.Writer, dir string) error {
	r, err := openRing(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	ix, err := search.Open(ctx, search.Config{Dir: filepath.Join(dir, "index"), Keys: ring.ByName{Ring: r}, Name: "bench", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer ix.Close()
	made := newMade(c.Sessions)
	from := ix.Indexed()
	begun := time.Now()
	run, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- ix.Run(run, made) }()
	size := uint64(2 * c.Sessions)
	last := begun
	for ix.Indexed() < size {
		select {
		case <-time.After(20 * time.Millisecond):
		case err := <-ran:
			return cmp.Or(err, ctx.Err())
		}
		if time.Since(last) > 30*time.Second {
			last = time.Now()
			fmt.Fprintf(out, "  %d of %d sessions after %v\n", ix.Indexed()/2, c.Sessions, last.Sub(begun).Round(time.Second))
		}
	}
	took := time.Since(begun)
	stop()
	if err := <-ran; err != nil {
		return err
	}
	bytes := int64(0)
	files, _ := filepath.Glob(filepath.Join(dir, "index", "*"))
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			bytes += st.Size()
		}
	}
	how := "as it was kept"
	if n := float64(size-from) / 2; n > 0 {
		how = fmt.Sprintf("%.0f inserted a second", n/took.Seconds())
	}
	fmt.Fprintf(out, "index of %d sessions: %s, %d MB, %d bytes a session\n", c.Sessions, how, bytes>>20, bytes/int64(c.Sessions))

	for _, kind := range []struct {
		name  string
		limit time.Duration
		ask   func(*rand.Rand) string
	}{
		{"by fields", 200 * time.Millisecond, made.filtered},
		{"by phrases", time.Second, made.phrase},
		{"worst: fields that few have together", 200 * time.Millisecond, made.rareFields},
		{"worst: numbers that few have", 200 * time.Millisecond, made.rareNumbers},
		{"worst: phrases of the commonest words", time.Second, made.commonPhrase},
		{"worst: rare fields and a common phrase", time.Second, made.rareAndCommon},
		{"by how a word begins", time.Second, made.prefix},
	} {
		if err := c.search(ctx, out, ix, kind.name, kind.limit, kind.ask); err != nil {
			return err
		}
	}
	return nil
}

// search asks many different queries of one kind.
func (c Search) search(ctx context.Context, out io.Writer, ix *search.Index, name string, limit time.Duration, ask func(*rand.Rand) string) error {
	rng := rand.New(rand.NewPCG(11, 12))
	var walls, cpus []time.Duration
	short, none, worst := 0, 0, ""
	for range c.Queries {
		text := ask(rng)
		want, err := audit.ParseQuery(text, epoch.Add(24*time.Hour))
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		cpu, begun := processor(), time.Now()
		p, err := ix.Find(ctx, want, "", audit.UsualHits)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		walls = append(walls, time.Since(begun))
		cpus = append(cpus, processor()-cpu)
		if walls[len(walls)-1] == slices.Max(walls) {
			worst = text
		}
		if p.Short {
			short++
		}
		if len(p.Hits) == 0 {
			none++
		}
	}
	ms := func(d time.Duration) string { return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64) }
	fmt.Fprintf(out, "%-40s p50 %7s  p95 %7s  max %7s ms; processor p50 %7s  p95 %7s  max %7s ms; limit %v; %d queries, %d find nothing, %d were broken off; slowest: %s\n",
		name, ms(percentile(walls, 50)), ms(percentile(walls, 95)), ms(slices.Max(walls)), ms(percentile(cpus, 50)), ms(percentile(cpus, 95)), ms(slices.Max(cpus)),
		limit, c.Queries, none, short, worst)
	return nil
}

// follow has a log take in sessions at a rate, and an index follow it.
func (c Search) follow(ctx context.Context, out io.Writer, dir string, rate int) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, closeLog, err := openLog(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	r, err := openRing(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	keys := deskKeys{ring.ByName{Ring: r}}
	ctx, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { r.Run(ctx) })
	var pens [2]*record.Writer
	for i := range pens {
		if pens[i], err = record.NewWriter(record.WriterConfig{ID: fmt.Sprint("bench-", i), Log: l, Software: "tally-bench", Mode: "none", Heartbeat: -1}); err != nil {
			return err
		}
		all.Go(func() { pens[i].Run(ctx) })
	}
	desk, err := audit.NewDesk(l, keys, pens[1])
	if err != nil {
		return err
	}
	ix, err := search.Open(ctx, search.Config{Dir: filepath.Join(dir, "index"), Keys: keys, Name: "bench", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer ix.Close()
	indexing, stopIndex := context.WithCancel(ctx)
	indexed := make(chan error, 1)
	go func() { indexed <- ix.Run(indexing, desk) }()
	defer func() {
		stopIndex()
		err = errors.Join(err, <-indexed)
	}()
	coder, err := record.NewCoder(0)
	if err != nil {
		return err
	}

	made := newMade(1 << 30)
	var written atomic.Int64
	var failed atomic.Pointer[error]
	load, unload := context.WithTimeout(ctx, c.Time)
	defer unload()
	var calls sync.WaitGroup
	room := make(chan struct{}, 4096)
	// Sessions begin at the rate, and each ends half a second later.
	calls.Go(func() {
		begun := time.Now()
		for n := 0; load.Err() == nil; n++ {
			time.Sleep(time.Until(begun.Add(time.Duration(n) * time.Second / time.Duration(rate))))
			room <- struct{}{}
			calls.Go(func() {
				defer func() { <-room }()
				s := made.session(n)
				write := func(e record.Entry, rec record.Record, after *record.Ticket) (*record.Ticket, error) {
					id, key, err := keys.New(ctx)
					if err != nil {
						return nil, err
					}
					d, err := coder.Draft(e, rec, key, id)
					if err != nil {
						return nil, err
					}
					d.After = after
					return pens[0].Write(ctx, d)
				}
				id := record.NewID(time.Now())
				ticket, err := write(record.Entry{Kind: record.Request, Session: id}, s.request(), nil)
				if err == nil {
					time.Sleep(500 * time.Millisecond)
					_, err = write(record.Entry{Kind: record.Response, Session: id, Outcome: record.Complete}, s.response(), ticket)
				}
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					unload()
					return
				}
				written.Add(1)
			})
		}
	})

	// How far behind it is: what was published when, against what is indexed now.
	type moment struct {
		at   time.Time
		size uint64
	}
	var published []moment
	var entries []int64
	var lags, finds []time.Duration
	for tick := time.NewTicker(50 * time.Millisecond); load.Err() == nil; <-tick.C {
		size, err := desk.Size(ctx)
		if errors.Is(err, tlog.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		now := time.Now()
		published = append(published, moment{now, size})
		have := ix.Indexed()
		i, _ := slices.BinarySearchFunc(published, have+1, func(m moment, n uint64) int { return cmp.Compare(m.size, n) })
		lag := time.Duration(0)
		if i < len(published) {
			lag = now.Sub(published[i].at)
		}
		lags = append(lags, lag)
		entries = append(entries, int64(size)-int64(min(have, size)))
		if len(lags)%10 == 0 {
			begun := time.Now()
			if _, err := ix.Find(ctx, audit.Wanted{{Any: []string{made.words[len(lags)%500]}}}, "", audit.UsualHits); err != nil {
				return err
			}
			finds = append(finds, time.Since(begun))
		}
	}
	took := c.Time
	calls.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	end := time.Now()
	size, err := desk.Size(ctx)
	for err == nil && ix.Indexed() < size {
		time.Sleep(10 * time.Millisecond)
		err = ctx.Err()
	}
	if err != nil || len(lags) == 0 {
		return cmp.Or(err, errors.New("nothing was published in time"))
	}
	slices.Sort(entries)
	fmt.Fprintf(out, "follows a log of %d sessions a second: %.0f written a second for %v; behind p50 %d, max %d entries, p50 %v, p95 %v, max %v; caught up %v after the end; searches meanwhile p50 %v, max %v\n",
		rate, float64(written.Load())/took.Seconds(), took, entries[len(entries)/2], entries[len(entries)-1],
		percentile(lags, 50).Round(time.Millisecond), percentile(lags, 95).Round(time.Millisecond), slices.Max(lags).Round(time.Millisecond),
		time.Since(end).Round(time.Millisecond), percentile(finds, 50).Round(100*time.Microsecond), percentile(finds, 100).Round(100*time.Microsecond))
	return nil
}

// epoch is when the first made session began.
var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// made is a log of sessions made up, as a source of entries with their records: each has some 230 words, as frequent as words are
// in prose, and fields of which some are rare. The same number always makes the same session.
type made struct {
	sessions int
	words    []string // the commonest first
	boot     record.ID
}

// lasts is how many sessions begin before one ends.
const lasts = 200

func newMade(sessions int) *made {
	m := &made{sessions: sessions, boot: record.ID{1}}
	for n := range 200_000 {
		word := ""
		for k := n*7919 + 13; k > 0; k /= 60 {
			word += string("bcdfglmnprst"[k%12]) + string("aeiou"[k/12%5])
		}
		m.words = append(m.words, word+string("aeiouxyz"[n%8]))
	}
	return m
}

// madeSession is one of them.
type madeSession struct {
	n                               int
	id                              record.ID
	at                              time.Time
	took                            time.Duration
	caller, group, model, route     string
	prompt, answer                  []string
	status                          int
	in, out                         int
	verdict, rule, finding, outcome string
}

func (m *made) session(n int) *madeSession {
	r := rand.New(rand.NewPCG(uint64(n), 99))
	z := rand.NewZipf(r, 1.07, 4, uint64(len(m.words)-1))
	at := epoch.Add(time.Duration(n) * 80 * time.Millisecond)
	s := &madeSession{
		n: n, at: at, id: record.ID{0: 1, 8: 0x80, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)},
		caller: fmt.Sprint("caller-", min(r.IntN(400), r.IntN(400))), model: fmt.Sprint("model-", min(r.IntN(12), r.IntN(12))), route: fmt.Sprint("route-", r.IntN(4)),
		status: []int{200, 200, 200, 200, 200, 200, 200, 200, 404, 429}[r.IntN(10)], outcome: string(record.Complete), verdict: "allow",
	}
	s.group = "group-" + strconv.Itoa(len(s.caller)*r.IntN(5))
	if r.IntN(5000) == 0 {
		s.status, s.outcome = 502, string(record.UpstreamError)
	}
	if r.IntN(50) == 0 {
		s.verdict, s.rule = "ask", "large"
	}
	if r.IntN(40) == 0 {
		s.finding = []string{"CARD", "IBAN", "EMAIL", "PHONE"}[min(r.IntN(4), r.IntN(4))]
	}
	for range 60 + r.IntN(80) {
		s.prompt = append(s.prompt, m.words[z.Uint64()])
	}
	for range 80 + r.IntN(100) {
		s.answer = append(s.answer, m.words[z.Uint64()])
	}
	s.in, s.out = len(s.prompt)*4/3+int(r.ExpFloat64()*600), len(s.answer)*4/3
	s.took = time.Duration(float64(200*time.Millisecond) + r.ExpFloat64()*float64(4*time.Second))
	return s
}

func (s *madeSession) request() (r record.Record) {
	body, _ := json.Marshal(map[string]any{"model": s.model, "messages": []any{map[string]any{"role": "user", "content": strings.Join(s.prompt, " ")}}})
	for _, f := range [][2]string{
		{record.FieldSession, s.id.String()}, {record.FieldCaller, s.caller}, {record.FieldGroups, `["` + s.group + `"]`}, {record.FieldRoute, s.route}, {record.FieldModel, s.model},
		{record.FieldMethod, "POST"}, {record.FieldTarget, "/v1/chat/completions"}, {record.FieldHeaders, `[["Content-Type","application/json"]]`}, {record.FieldBody, string(body)},
		{record.FieldVerdict, s.verdict}, {record.FieldRule, s.rule},
	} {
		if f[1] != "" {
			r.Add(f[0], []byte(f[1]))
		}
	}
	if s.finding != "" {
		r.Add(record.FieldFindings, []byte(`[["`+s.finding+`","",1]]`))
	}
	return r
}

func (s *madeSession) response() (r record.Record) {
	body, _ := json.Marshal(map[string]any{
		"object": "chat.completion", "model": s.model, "usage": map[string]any{"prompt_tokens": s.in, "completion_tokens": s.out},
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": strings.Join(s.answer, " ")}}},
	})
	r.Add(record.FieldStatus, []byte(strconv.Itoa(s.status)))
	r.Add(record.FieldHeaders, []byte(`[["Content-Type","application/json"]]`))
	r.Add(record.FieldBody, body)
	return r
}

// Size returns how many entries there are.
func (m *made) Size(context.Context) (uint64, error) { return uint64(2 * m.sessions), nil }

// Feed gives the entries: session by session the request of one and the response of another, which began lasts before.
func (m *made) Feed(ctx context.Context, _ audit.Asker, _ string, from uint64, each func(context.Context, []audit.Seen) error) error {
	size := uint64(2 * m.sessions)
	for from < size && ctx.Err() == nil {
		to := min(size, (from/tlog.TileWidth+1)*tlog.TileWidth)
		batch := make([]audit.Seen, to-from)
		for i := range batch {
			seen, err := m.entry(from + uint64(i))
			if err != nil {
				return err
			}
			batch[i] = seen
		}
		if err := each(ctx, batch); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		from = to
	}
	<-ctx.Done()
	return nil
}

// entry makes one: the first requests come alone, and the last responses.
func (m *made) entry(index uint64) (seen audit.Seen, err error) {
	first := min(lasts, m.sessions)
	n, request := int(index), true
	if n >= first {
		k := n - first
		if n, request = first+k/2, k%2 == 1; !request {
			n -= first
		}
		if n >= m.sessions { // there is nothing left to begin
			n, request = m.sessions-(2*m.sessions-int(index)), false
		}
	}
	s := m.session(n)
	e := record.Entry{Kind: record.Request, Session: s.id, Time: s.at, By: "bench", Boot: m.boot, Seq: index + 1, Root: tlog.Hash{1}, Payload: tlog.Hash{1}, PayloadSize: 1}
	if request {
		seen.Record = s.request()
	} else {
		seen.Record = s.response()
		e.Kind, e.Outcome, e.Time = record.Response, record.Outcome(s.outcome), s.at.Add(s.took)
	}
	e.Time, e.Fields = e.Time.Truncate(time.Microsecond), len(seen.Record)
	seen.Index, seen.Entry = index, e
	seen.Bytes, err = e.Append(nil)
	return seen, err
}

// What is asked for.

func pick(r *rand.Rand, all ...string) string { return all[r.IntN(len(all))] }

func (m *made) filtered(r *rand.Rand) string {
	filter := func() string {
		return pick(r, fmt.Sprint("caller:caller-", r.IntN(400)), fmt.Sprint("model:model-", r.IntN(12)), fmt.Sprint("route:route-", r.IntN(4)), fmt.Sprint("group:group-", 8*r.IntN(5)),
			"status:404", "status:>=400", "status:5xx", "outcome:upstream_error", "verdict:ask", "rule:large", "finding:"+pick(r, "CARD", "IBAN", "EMAIL", "PHONE"),
			fmt.Sprint("tokens:>", r.IntN(3000)), fmt.Sprint("duration:>", r.IntN(20), "s"), fmt.Sprintf("since:%s", epoch.Add(time.Duration(r.IntN(m.sessions))*80*time.Millisecond).Format(time.RFC3339)),
			fmt.Sprintf("until:%s", epoch.Add(time.Duration(r.IntN(m.sessions))*80*time.Millisecond).Format(time.RFC3339)), "-status:200", fmt.Sprint("-caller:caller-", r.IntN(40)))
	}
	var terms []string
	for range 1 + r.IntN(3) {
		terms = append(terms, filter())
	}
	if r.IntN(4) == 0 {
		terms = append(terms, m.words[r.IntN(5000)])
	}
	return strings.Join(terms, " ")
}

// phrase asks for two to five words that follow each other in some session, or might.
func (m *made) phrase(r *rand.Rand) string {
	n := 2 + r.IntN(4)
	var words []string
	if r.IntN(3) > 0 {
		answer := m.session(r.IntN(m.sessions)).answer
		at := r.IntN(len(answer) - n)
		words = answer[at : at+n]
	} else {
		for range n {
			words = append(words, m.words[min(r.IntN(2000), r.IntN(2000))])
		}
	}
	return `"` + strings.Join(words, " ") + `"`
}

func (m *made) rareFields(r *rand.Rand) string {
	return fmt.Sprintf("caller:caller-%d model:model-%d route:route-%d %s", 300+r.IntN(100), r.IntN(12), r.IntN(4), pick(r, "status:5xx", "finding:PHONE verdict:ask", "status:200 -verdict:allow", "status:404 -route:route-1"))
}

func (m *made) rareNumbers(r *rand.Rand) string {
	return pick(r, fmt.Sprint("tokens:>", 6000+r.IntN(4000)), fmt.Sprint("status:200 tokens:>", 5000+r.IntN(3000)), fmt.Sprintf("duration:>%ds status:200", 30+r.IntN(30)), fmt.Sprintf("tokens:%d status:404", r.IntN(3000)),
		fmt.Sprintf("duration:%dms..%dms", 200+r.IntN(20), 221), fmt.Sprint("tokens:<", 190+r.IntN(20)))
}

func (m *made) commonPhrase(r *rand.Rand) string {
	var words []string
	for range 2 + r.IntN(4) {
		words = append(words, m.words[r.IntN(8)])
	}
	return `"` + strings.Join(words, " ") + `"`
}

func (m *made) rareAndCommon(r *rand.Rand) string {
	return m.commonPhrase(r) + " " + pick(r, m.rareFields(r), "status:5xx", "finding:PHONE verdict:ask", fmt.Sprint("tokens:>", 5000+r.IntN(2000)))
}

func (m *made) prefix(r *rand.Rand) string {
	w := m.words[r.IntN(5000)]
	return w[:min(len(w), 3+r.IntN(3))] + "*"
}
