package tiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

var update = flag.Bool("update", false, "write the golden file")

// grown returns a log that published at the given sizes and then appended ten leaves more. Its first entries are long, so
// that a bundle is worth compressing.
func grown(t testing.TB, sizes ...uint64) *tlogtest.Log {
	t.Helper()
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	grow(t, l, sizes...)
	appendTo(t, l, sizes[len(sizes)-1]+10)
	return l
}

func grow(t testing.TB, l *tlogtest.Log, sizes ...uint64) {
	t.Helper()
	for _, size := range sizes {
		appendTo(t, l, size)
		if _, err := l.Publish(); err != nil {
			t.Fatal(err)
		}
	}
}

func appendTo(t testing.TB, l *tlogtest.Log, size uint64) {
	t.Helper()
	var leaves []tlog.Leaf
	for i := l.Size(); i < size; i++ {
		entry := fmt.Appendf(nil, "entry %d", i)
		if i < 1000 {
			entry = append(entry, strings.Repeat(" and so on", 20)...)
		}
		leaves = append(leaves, tlog.Leaf{Entry: entry})
	}
	if len(leaves) > 0 {
		if _, err := l.Append(t.Context(), leaves...); err != nil {
			t.Fatal(err)
		}
	}
}

// ask sends one request without a network.
func ask(h http.Handler, method, target string, head http.Header) *http.Response {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil // the server answers 400 before it asks the handler
	}
	req := &http.Request{Method: method, URL: u, RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: head, Host: "log.example", Body: http.NoBody}
	if head == nil {
		req.Header = http.Header{}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Result()
}

func read(t testing.TB, resp *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGolden keeps every header of every kind of answer. Bodies are short text, or named by length and hash.
func TestGolden(t *testing.T) {
	l := grown(t, 3, 5, 300, 512, 70_000)
	plain := Handler(l, Options{})
	prefixed := Handler(l, Options{Prefix: "/log/2026"})
	bare := Handler(struct{ tlog.Reader }{l}, Options{})
	zip := http.Header{"Accept-Encoding": {"gzip"}}
	var out strings.Builder
	for _, c := range []struct {
		h      http.Handler
		name   string
		method string
		target string
		head   http.Header
	}{
		{plain, "", "GET", "/checkpoint", nil},
		{plain, "", "HEAD", "/checkpoint", nil},
		{plain, "", "GET", "/checkpoint", zip},
		{plain, "", "GET", "/tile/0/000", nil},
		{plain, "", "GET", "/tile/0/000", zip},
		{plain, "", "HEAD", "/tile/0/000", nil},
		{plain, "", "GET", "/tile/0/000.p/3", nil},
		{plain, "", "GET", "/tile/0/000.p/4", nil},
		{plain, "", "GET", "/tile/0/273.p/112", nil},
		{plain, "", "GET", "/tile/0/273.p/122", nil},
		{plain, "", "GET", "/tile/1/000", nil},
		{plain, "", "GET", "/tile/1/001.p/17", nil},
		{plain, "", "GET", "/tile/2/000.p/1", nil},
		{plain, "", "GET", "/tile/entries/000", nil},
		{plain, "", "GET", "/tile/entries/000", zip},
		{plain, "", "HEAD", "/tile/entries/000", zip},
		{plain, "", "HEAD", "/tile/entries/000", nil},
		{plain, "", "GET", "/tile/entries/000.p/5", nil},
		{plain, "", "GET", "/tile/entries/273.p/112", zip},
		{plain, "", "GET", "/checkpoints", nil},
		{plain, "", "GET", "/checkpoints?after=5", nil},
		{plain, "", "GET", "/checkpoints?after=70000", nil},
		{plain, "", "GET", "/checkpoints?after=x", nil},
		{plain, "", "GET", "/checkpoints/300", nil},
		{plain, "", "HEAD", "/checkpoints/300", nil},
		{plain, "", "GET", "/checkpoints/301", nil},
		{plain, "", "GET", "/", nil},
		{plain, "", "POST", "/checkpoint", nil},
		{plain, "", "OPTIONS", "/checkpoint", nil},
		{prefixed, "prefixed", "GET", "/log/2026/tile/0/000.p/5", nil},
		{prefixed, "prefixed", "GET", "/tile/0/000.p/5", nil},
		{bare, "without history", "GET", "/checkpoints", nil},
		{bare, "without history", "GET", "/checkpoints/300", nil},
		{bare, "without history", "GET", "/tile/0/000.p/3", nil},
		{bare, "without history", "GET", "/tile/0/000.p/4", nil},
	} {
		resp := ask(c.h, c.method, c.target, c.head)
		fmt.Fprintf(&out, "%s %s", c.method, c.target)
		if c.head != nil {
			fmt.Fprint(&out, "  (Accept-Encoding: gzip)")
		}
		if c.name != "" {
			fmt.Fprintf(&out, "  (%s)", c.name)
		}
		fmt.Fprintf(&out, "\n%d\n", resp.StatusCode)
		for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
			value := strings.Join(resp.Header[name], " | ")
			if name == "Content-Length" && resp.Header.Get("Content-Encoding") != "" {
				value = "(compressed)" // the compressor may change
			}
			fmt.Fprintf(&out, "%s: %s\n", name, value)
		}
		body := read(t, resp)
		if resp.Header.Get("Content-Encoding") == "gzip" && len(body) > 0 {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if len(body) > 500 || bytes.ContainsFunc(body, func(r rune) bool { return r == 0 || r == 0xfffd }) {
			fmt.Fprintf(&out, "\n%d bytes, SHA-256 %x\n", len(body), sha256.Sum256(body))
		} else {
			fmt.Fprintf(&out, "\n%s", body)
		}
		fmt.Fprint(&out, "----\n")
	}
	const golden = "testdata/answers.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		got, want := strings.Split(out.String(), "----\n"), strings.Split(string(want), "----\n")
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Errorf("answer %d is\n%s\nand was\n%s", i, got[i], want[i])
			}
		}
		t.Error("the answers are not those of ", golden, "; -update writes them if they are meant")
	}
}

// existing returns every path that the log serves.
func existing(sizes ...uint64) map[string]bool {
	paths := map[string]bool{"/checkpoint": true, "/checkpoints": true}
	newest := sizes[len(sizes)-1]
	for _, size := range sizes {
		paths[fmt.Sprintf("/checkpoints/%d", size)] = true
		for level := tlog.EntriesLevel; level < 8; level++ {
			nodes := size >> (8 * max(level, 0))
			if nodes > 0 {
				paths["/"+tlog.TileAt(level, nodes-1, size).Path()] = true
			}
			if size == newest {
				for n := range nodes {
					paths["/"+tlog.TileAt(level, n, size).Path()] = true
				}
			}
		}
	}
	return paths
}

// A generous log hands out whatever it has: tiles of any width, tiles and kept checkpoints that are not published yet.
type generous struct {
	tlog.Reader
	all *tlogtest.Log // of the same entries and more
}

func (g generous) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	return tlog.ReadTile(ctx, g.all, t)
}
func (g generous) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	return g.all.Sizes(ctx, after, max)
}
func (g generous) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	return g.all.CheckpointAt(ctx, size)
}

// TestPaths asks for everything that could be a tile of the log, and has all that exists and nothing else.
func TestPaths(t *testing.T) {
	sizes := []uint64{3, 5, 300, 512, 700}
	strict := grown(t, sizes...)
	all := grown(t, append(sizes, 701, 1024)...)
	implied := existing(sizes...)
	t.Run("strict", func(t *testing.T) {
		testPaths(t, Handler(strict, Options{}), 14, func(tile tlog.Tile) bool { return implied["/"+tile.Path()] })
	})
	h := Handler(generous{strict, all}, Options{})
	t.Run("generous", func(t *testing.T) {
		testPaths(t, h, 2*700+2, func(tile tlog.Tile) bool {
			nodes := uint64(700) >> (8 * max(tile.Level, 0))
			return tile.Index < 1000 && tile.Index*256+uint64(tile.Width) <= nodes
		})
	})
	if resp := ask(h, "GET", "/checkpoints/701", nil); resp.StatusCode != 404 {
		t.Errorf("a checkpoint that is kept and not published: %d", resp.StatusCode)
	}
	if body := read(t, ask(h, "GET", "/checkpoints", nil)); string(body) != "3\n5\n300\n512\n700\n" {
		t.Errorf("the sizes are %q", body)
	}
}

func testPaths(t *testing.T, h http.Handler, n int, exists func(tlog.Tile) bool) {
	found := 0
	for _, level := range []int{tlog.EntriesLevel, 0, 1, 2, 7, 8, 63} {
		for _, n := range []uint64{0, 1, 2, 3, 4, 1000, 1 << 40, 1<<55 - 1, 1 << 55, 1 << 56, 1<<64 - 1} {
			for width := 1; width <= 256; width++ {
				tile := tlog.Tile{Level: level, Index: n, Width: width}
				path := "/" + tile.Path()
				resp := ask(h, "GET", path, nil)
				status, cache := 404, cacheNever
				if exists(tile) {
					status, cache = 200, cacheForever
					found++
				}
				if resp.StatusCode != status || resp.Header.Get("Cache-Control") != cache {
					t.Errorf("%s: %d, %s; want %d", path, resp.StatusCode, resp.Header.Get("Cache-Control"), status)
				}
			}
		}
	}
	if found != n {
		t.Errorf("%d tiles exist, not %d", found, n)
	}
}

// hostile are paths that mean something to a careless server.
var hostile = []string{
	"", "/", "//", "/checkpoint/", "//checkpoint", "/./checkpoint", "/x/../checkpoint", "/checkpoint/..", "/checkpoint/.",
	"/CHECKPOINT", "/checkpoint?", "/checkpoint?x", "/checkpoint?t=1", "/checkpoint;x", "/checkpoint%00", "/checkpoint%20", "/check%70oint",
	"/checkpoint%2f", "/%63heckpoint", "/checkpoint%3f", "/checkpoint%0d%0aX-Evil:%201", "/checkpoint\\", "/checkpoint%5c",
	"/tile", "/tile/", "/tile//0/000", "/tile/0", "/tile/0/", "/tile/0/000/", "/tile/0//000", "/tile/0/./000", "/tile/0/../0/000",
	"/tile/0/000?", "/tile/0/000?x=1", "/tile/0/0", "/tile/0/00", "/tile/0/0000", "/tile/0/x000/000", "/tile/0/x000", "/tile/0/000/000",
	"/tile/00/000", "/tile/+0/000", "/tile/-0/000", "/tile/-1/000", "/tile/0x0/000", "/tile/64/000", "/tile/255/000", "/tile/256/000", "/tile/ 0/000",
	"/tile/%30/000", "/tile/0%2f000", "/tile/0/%30%30%30", "/tile/0/000%2ep/3", "/tile/0/000.p%2f3", "/tile/0/000%00", "/tile/0/000%0a",
	"/tile/0/000.p", "/tile/0/000.p/", "/tile/0/000.p/0", "/tile/0/000.p/00", "/tile/0/000.p/03", "/tile/0/000.p/+3", "/tile/0/000.p/256", "/tile/0/000.p/257",
	"/tile/0/000.p/3/", "/tile/0/000.p/3.p/3", "/tile/0/000.p/-1", "/tile/0/000.p/3x", "/tile/0/000.p/99999999999999999999", "/tile/0/000.P/3",
	"/tile/0/001.p/1", "/tile/0/x001/000", "/tile/0/X001/000", "/tile/0/x1/000", "/tile/0/x001/x000", "/tile/0/xx01/000", "/tile/0/x+01/000", "/tile/0/x-01/000",
	"/tile/0/x018/x446/x744/x073/x709/x551/615", "/tile/0/x018/x446/x744/x073/x709/x551/616", "/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
	"/tile/0/٠٠٠", "/tile/0/%D9%A0%D9%A0%D9%A0", "/tile/0/1_0", "/tile/0/1e2", "/tile/0/0.0",
	"/tile/entries", "/tile/entries/", "/tile/entries/0", "/tile/Entries/000", "/tile/entries/000.p/0", "/tile/entries/000/../../../../etc/passwd",
	"/tile/entries/..%2f..%2f..%2fetc%2fpasswd", "/tile/data/000", "/tile/names/000", "/tile/8/0/000", "/tile/8/data/000", "/tile/0/000.gz",
	"/checkpoints/", "/checkpoints/0", "/checkpoints/03", "/checkpoints/+3", "/checkpoints/3/", "/checkpoints/3?", "/checkpoints/3?x", "/checkpoints/%33", "/checkpoints/4",
	"/checkpoints/-1", "/checkpoints/18446744073709551615", "/checkpoints/18446744073709551616", "/checkpoints/../checkpoint", "/checkpoints//3",
	"/issuer/x", "/add-checkpoint", "/metadata", "/.well-known/x", "/../../../../etc/passwd", "/..%5c..%5cwindows", "/favicon.ico",
	"http://log.example/tile/0/00", "*",
}

func TestHostilePaths(t *testing.T) {
	l := grown(t, 3)
	for _, prefix := range []string{"", "/log"} {
		h := Handler(l, Options{Prefix: prefix})
		for _, path := range hostile {
			resp := ask(h, "GET", prefix+path, nil)
			if resp == nil {
				continue
			}
			if resp.StatusCode != 404 || resp.Header.Get("Cache-Control") != cacheNever || resp.Header.Get("X-Evil") != "" {
				t.Errorf("%q: %d, %v", prefix+path, resp.StatusCode, resp.Header)
			}
		}
	}
	h := Handler(l, Options{})
	for _, query := range []string{"?after=", "?after=+1", "?after=01", "?after=-1", "?after=1&after=2", "?after=1&x=1", "?x=1&after=1", "?AFTER=1", "?after=%31",
		"?after=18446744073709551616", "?after=1;x", "?after=1.0", "?max=1"} {
		resp := ask(h, "GET", "/checkpoints"+query, nil)
		if resp.StatusCode != 400 || resp.Header.Get("Cache-Control") != cacheNever {
			t.Errorf("/checkpoints%s: %d, %v", query, resp.StatusCode, resp.Header)
		}
	}
}

// FuzzPath looks for a second name of anything: what is served is on the list of what exists, to the letter.
func FuzzPath(f *testing.F) {
	sizes := []uint64{3, 5, 300}
	h := Handler(grown(f, sizes...), Options{})
	exists := existing(sizes...)
	for _, path := range hostile {
		f.Add(path)
	}
	for path := range exists {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		resp := ask(h, "GET", path, nil)
		if resp == nil {
			return
		}
		// The server has cut a scheme and host off before the handler sees the path.
		if u, err := url.ParseRequestURI(path); err == nil && u.Host != "" {
			path = strings.TrimPrefix(path, u.Scheme+"://")
			path = strings.TrimPrefix(path, "//")
			if i := strings.IndexByte(path, '/'); i >= 0 {
				path = path[i:]
			}
		}
		list, _, _ := strings.Cut(path, "?after=")
		switch resp.StatusCode {
		case 200:
			if !exists[path] && list != "/checkpoints" {
				t.Errorf("%q is served: %v", path, resp.Header)
			}
		case 400:
			if resp.Header.Get("Cache-Control") != cacheNever || !strings.HasPrefix(path, "/checkpoints?") {
				t.Errorf("%q is a bad request", path)
			}
		case 404:
			if resp.Header.Get("Cache-Control") != cacheNever || exists[path] {
				t.Errorf("%q is not served", path)
			}
		default:
			t.Errorf("%q: %d", path, resp.StatusCode)
		}
	})
}

func TestAcceptsGzip(t *testing.T) {
	for _, c := range []struct {
		fields []string
		want   bool
	}{
		{nil, false}, {[]string{""}, false}, {[]string{"gzip"}, true}, {[]string{"GZIP"}, true}, {[]string{"x-gzip"}, true},
		{[]string{"deflate, br;q=1.0, gzip;q=0.5"}, true}, {[]string{"gzip;q=0"}, false}, {[]string{"gzip; q=0.000"}, false},
		{[]string{"gzip;q=0, *"}, false}, {[]string{"*"}, true}, {[]string{"*;q=0"}, false}, {[]string{"*;q=0, gzip"}, true},
		{[]string{"br", "gzip"}, true}, {[]string{"gzipped"}, false}, {[]string{"gzip;q=x"}, false}, {[]string{"identity"}, false},
		{[]string{"gzip;Q=1"}, true}, {[]string{"gzip;q=nan"}, false},
	} {
		if got := acceptsGzip(c.fields); got != c.want {
			t.Errorf("%q: %v", c.fields, got)
		}
	}
}

// TestErrors is a log that cannot be read: the client learns no more than that, and the operator all.
func TestErrors(t *testing.T) {
	secret := errors.New("pread /var/lib/secret: input/output error")
	for _, c := range []struct {
		name string
		path string
		f    tlogtest.Faults
		log  string
	}{
		{"checkpoint", "/checkpoint", tlogtest.Faults{Checkpoint: func([]byte) ([]byte, error) { return nil, secret }}, "pread"},
		{"checkpoint behind a tile", "/tile/0/000", tlogtest.Faults{Checkpoint: func([]byte) ([]byte, error) { return nil, secret }}, "pread"},
		{"damaged checkpoint behind a tile", "/tile/0/000", tlogtest.Faults{Checkpoint: func(b []byte) ([]byte, error) { return b[:20], nil }}, "not a signed note"},
		{"kept checkpoint", "/checkpoints/3", tlogtest.Faults{Checkpoint: func([]byte) ([]byte, error) { return nil, secret }}, "pread"},
		{"tile", "/tile/0/000", tlogtest.Faults{Tile: func(tlog.Tile, []byte) ([]byte, error) { return nil, secret }}, "pread"},
		{"short tile", "/tile/0/000", tlogtest.Faults{Tile: func(_ tlog.Tile, b []byte) ([]byte, error) { return b[1:], nil }}, "8191"},
		{"long tile", "/tile/0/000", tlogtest.Faults{Tile: func(_ tlog.Tile, b []byte) ([]byte, error) { return append(b, 0), nil }}, "8193"},
		{"empty tile", "/tile/1/000.p/1", tlogtest.Faults{Tile: func(tlog.Tile, []byte) ([]byte, error) { return nil, nil }}, "0 bytes"},
		{"short bundle", "/tile/entries/000", tlogtest.Faults{Tile: func(_ tlog.Tile, b []byte) ([]byte, error) { return b[:len(b)-1], nil }}, "within entry"},
		{"long bundle", "/tile/entries/000", tlogtest.Faults{Tile: func(_ tlog.Tile, b []byte) ([]byte, error) { return append(b, 0, 0), nil }}, "after its 256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log bytes.Buffer
			l := grown(t, 3, 300)
			l.Inject(c.f)
			h := Handler(l, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			resp := ask(h, "GET", c.path, nil)
			body := string(read(t, resp))
			if resp.StatusCode != 500 || resp.Header.Get("Cache-Control") != cacheNever || body != "the log cannot be read at the moment\n" {
				t.Errorf("%d, %v, %q", resp.StatusCode, resp.Header, body)
			}
			if !strings.Contains(log.String(), c.log) || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("the operator reads %q", log.String())
			}
			l.Inject(tlogtest.Faults{})
			if resp := ask(h, "GET", c.path, nil); resp.StatusCode != 200 {
				t.Errorf("healed: %d", resp.StatusCode)
			}
		})
	}
	var log bytes.Buffer
	l := grown(t, 300)
	l.Inject(tlogtest.Faults{Tile: func(tlog.Tile, []byte) ([]byte, error) { return nil, tlog.ErrNotFound }})
	h := Handler(l, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if resp := ask(h, "GET", "/tile/0/000", nil); resp.StatusCode != 404 || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("a lost tile: %d, %q", resp.StatusCode, log.String())
	}
}

// TestNothingUnpublished asks while the log grows: what a client gets beyond the checkpoint it holds was published by then.
func TestNothingUnpublished(t *testing.T) {
	l := grown(t, 3)
	h := Handler(l, Options{})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				size := l.Size() // durable; the edge of this tree is most likely not published
				path := "/" + tlog.TileAt(tlog.EntriesLevel, size-1, size).Path()
				resp := ask(h, "GET", path, nil)
				after, err := l.Checkpoint(ctx)
				if err != nil {
					return
				}
				c, err := tlog.UnverifiedCheckpoint(after)
				if err != nil || resp.StatusCode == 200 && c.Size < size {
					t.Errorf("%s is served and size %d published, %v", path, c.Size, err)
					return
				}
			}
		})
	}
	for size := uint64(20); size < 2000; size += 7 {
		appendTo(t, l, size)
		if size%5 == 0 {
			l.Publish()
		}
	}
	cancel()
	wg.Wait()
}

func TestFirstWith(t *testing.T) {
	for _, c := range []struct {
		tile tlog.Tile
		size uint64
		ok   bool
	}{
		{tlog.Tile{Width: 1}, 1, true}, {tlog.Tile{Width: 256}, 256, true}, {tlog.Tile{Index: 3, Width: 7}, 775, true},
		{tlog.Tile{Level: tlog.EntriesLevel, Index: 3, Width: 7}, 775, true}, {tlog.Tile{Level: 1, Index: 3, Width: 7}, 775 << 8, true},
		{tlog.Tile{Level: 7, Width: 127}, 127 << 56, true}, {tlog.Tile{Level: 7, Width: 128}, 0, false}, {tlog.Tile{Level: 7, Index: 1, Width: 1}, 0, false},
		{tlog.Tile{Level: 8, Width: 1}, 0, false}, {tlog.Tile{Level: 63, Width: 1}, 0, false},
		{tlog.Tile{Index: 1<<55 - 1, Width: 255}, 1<<63 - 1, true}, {tlog.Tile{Index: 1<<55 - 1, Width: 256}, 0, false},
		{tlog.Tile{Index: 1 << 55, Width: 1}, 0, false}, {tlog.Tile{Index: 1 << 56, Width: 1}, 0, false}, {tlog.Tile{Index: 1<<64 - 1, Width: 1}, 0, false},
		{tlog.Tile{Level: 1, Index: 1 << 48, Width: 1}, 0, false}, {tlog.Tile{Level: 6, Index: 1 << 16, Width: 1}, 0, false},
	} {
		if size, ok := firstWith(c.tile); ok != c.ok || ok && size != c.size {
			t.Errorf("%+v: %d, %v", c.tile, size, ok)
		}
	}
}
