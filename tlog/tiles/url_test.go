package tiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// readElsewhere is an engine that is written to here and read through a Reader.
type readElsewhere struct {
	*tlogtest.Log
	tlog.Reader
	tlog.History
}

func (l readElsewhere) Checkpoint(ctx context.Context) ([]byte, error) {
	return l.Reader.Checkpoint(ctx)
}
func (l readElsewhere) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	return l.Reader.Tile(ctx, t)
}
func (l readElsewhere) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	return l.History.Sizes(ctx, after, max)
}
func (l readElsewhere) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	return l.History.CheckpointAt(ctx, size)
}

// serve serves h on the loopback.
func serve(t testing.TB, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func fromURL(t testing.TB, base string, limits Limits) *URL {
	t.Helper()
	l, err := FromURL(base, nil, limits)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestStory tells the story of every engine to one that is read over HTTP.
func TestStory(t *testing.T) {
	tlogtest.Run(t, func(*testing.T) tlogtest.World {
		disk := new(tlogtest.Storage)
		return tlogtest.World{
			Open: func(t testing.TB, s tlogtest.Setting) tlog.Log {
				l, err := tlogtest.Open(tlogtest.Config{Origin: s.Origin, Signer: s.Signer, Latest: s.Latest, Storage: disk})
				if err != nil {
					t.Fatal(err)
				}
				u := fromURL(t, serve(t, Handler(l, Options{Prefix: "/a/log"}))+"/a/log", Limits{})
				return readElsewhere{l, u, u}
			},
			Close: func(_ testing.TB, l tlog.Log) { l.(readElsewhere).Log.Close() },
			Large: 3000,
		}
	})
}

func TestFromURLRefuses(t *testing.T) {
	for _, base := range []string{"", "log.example", "//log.example", "ftp://log.example", "file:///etc", "http://", "https:///log", "http://u:p@log.example",
		"http://u@log.example/", "http://log.example/?x", "http://log.example/?", "http://log.example/#x", "http://log.example:x/", "http://log\n.example"} {
		if l, err := FromURL(base, nil, Limits{}); err == nil {
			t.Errorf("%q is %q", base, l.base)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("a password is in the error: %v", err)
		}
	}
	for base, want := range map[string]string{
		"http://log.example": "http://log.example/", "https://log.example:8443/a/b//": "https://log.example:8443/a/b/", "http://[::1]:1/x": "http://[::1]:1/x/",
	} {
		if l, err := FromURL(base, nil, Limits{}); err != nil || l.base != want {
			t.Errorf("%q is %+v, %v", base, l, err)
		}
	}
}

// TestURLHostile is servers that a client must survive, and what it says of them.
func TestURLHostile(t *testing.T) {
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(s)) }
	}
	status := func(code int, s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); w.Write([]byte(s)) }
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for chunk := bytes.Repeat([]byte("endless "), 8<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	checkpoint := func(l *URL, ctx context.Context) error { _, err := l.Checkpoint(ctx); return err }
	at := func(l *URL, ctx context.Context) error { _, err := l.CheckpointAt(ctx, 7); return err }
	tile := func(l *URL, ctx context.Context) error { _, err := l.Tile(ctx, tlog.Tile{Width: 3}); return err }
	bundle := func(l *URL, ctx context.Context) error {
		_, err := l.Tile(ctx, tlog.Tile{Level: tlog.EntriesLevel, Width: 256})
		return err
	}
	sizes := func(l *URL, ctx context.Context) error { _, err := l.Sizes(ctx, 5, 2000); return err }
	elsewhere := serve(t, text("another host's checkpoint"))
	for _, c := range []struct {
		name   string
		server http.HandlerFunc
		ask    func(*URL, context.Context) error
		says   string // "" for no error
		is     error
	}{
		{"not found", status(404, "no"), checkpoint, "/checkpoint: tlog: not found", tlog.ErrNotFound},
		{"kept not found", status(404, "no"), at, "/checkpoints/7: ", tlog.ErrNotFound},
		{"no history", status(404, "no"), sizes, "/checkpoints?after=5: ", tlog.ErrNotFound},
		{"gone", status(410, "pruned"), tile, `/tile/0/000.p/3: the log answers 410: "pruned"`, nil},
		{"error with controls", status(503, "\x1b[31mred\r\n\x00"+strings.Repeat("x", 1000)), checkpoint, `answers 503: "\x1b[31mred\r\n\x00` + strings.Repeat("x", 89) + `"`, nil},
		{"created", status(201, "x"), checkpoint, "answers 201", nil},
		{"partial content", status(206, "x"), checkpoint, "answers 206", nil},
		{"no content", status(204, ""), checkpoint, "answers 204", nil},
		{"endless checkpoint", endless, checkpoint, `longer than 65536 bytes; it begins "endless `, nil},
		{"endless tile", endless, tile, "longer than 96 bytes", nil},
		{"endless bundle", endless, bundle, "longer than 1000000 bytes", nil},
		{"endless sizes", endless, sizes, "longer than", nil},
		{"endless error", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500); endless(w, r) }, checkpoint, "answers 500", nil},
		{"bomb", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for range 64 {
				z.Write(make([]byte, 1<<20))
			}
			z.Close()
		}, bundle, "longer than 1000000 bytes", nil},
		{"unasked encoding", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			w.Write([]byte("x"))
		}, checkpoint, `encoded as "br"`, nil},
		{"no gzip in gzip", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte("plain"))
		}, checkpoint, "after 0 bytes of the answer", nil},
		{"short tile", text("short"), tile, `5 bytes where 96 are due; the answer begins "short"`, nil},
		{"page for a tile", text("<html>sign in</html>"), tile, "due", nil},
		{"cut", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "96")
			w.Write(make([]byte, 50))
		}, tile, "after 50 bytes", nil},
		{"redirect elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, 302) }, checkpoint, "another host", nil},
		{"redirect to a file", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "file:///etc/passwd", 302) }, checkpoint, "another host", nil},
		{"redirect to https", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "https://"+r.Host+"/x", 307) }, checkpoint, "another host", nil},
		{"redirect in a circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) }, checkpoint, "more than 5 redirects", nil},
		{"redirect here", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/checkpoint" {
				http.Redirect(w, r, "/new/checkpoint", 301)
				return
			}
			w.Write([]byte("x"))
		}, checkpoint, "", nil},
		{"hangs", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, checkpoint, "deadline", context.DeadlineExceeded},
		{"hangs in the body", func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, checkpoint, "after 1 bytes", context.DeadlineExceeded},
		{"sizes without end of line", text("6\n7"), sizes, "within a line", nil},
		{"sizes not ascending", text("6\n6\n"), sizes, `"6" is not a size above 6`, nil},
		{"sizes from before", text("5\n"), sizes, `"5" is not a size above 5`, nil},
		{"sizes with a zero", text("06\n"), sizes, "is not a size", nil},
		{"sizes with an empty line", text("6\n\n"), sizes, `"" is not a size`, nil},
		{"sizes that are a page", text("<html>\n"), sizes, "is not a size", nil},
		{"sizes with CRLF", text("6\r\n"), sizes, `"6\r" is not a size`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := fromURL(t, serve(t, c.server), Limits{Bundle: 1_000_000})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if c.is == context.DeadlineExceeded {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			err := c.ask(l, ctx)
			if c.says == "" && err != nil {
				t.Error(err)
			}
			if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v\nwants %s", err, c.says)
			}
			if c.says != "" && err != nil && !strings.HasPrefix(err.Error(), "GET "+l.base) {
				t.Errorf("no URL in: %v", err)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
		})
	}
}

func TestURLAsks(t *testing.T) {
	var asked []string
	l := fromURL(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.UserAgent(), r.Header.Get("Accept-Encoding")))
		w.Write(make([]byte, 32))
	})), Limits{})
	if _, err := l.Tile(t.Context(), tlog.Tile{Level: 2, Index: 1234067, Width: 1}); err != nil {
		t.Error(err)
	}
	for _, tile := range []tlog.Tile{{}, {Width: 257}, {Width: -1}, {Level: 64, Width: 1}, {Level: -2, Width: 1}} {
		if _, err := l.Tile(t.Context(), tile); !errors.Is(err, tlog.ErrNotFound) {
			t.Errorf("%+v: %v", tile, err)
		}
	}
	if want := []string{"GET /tile/2/x001/x234/067.p/1 " + userAgent + " gzip"}; !slices.Equal(asked, want) {
		t.Errorf("%q", asked)
	}
}

// TestURLPages is a history of more checkpoints than one answer lists.
func TestURLPages(t *testing.T) {
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	for i := range uint64(2500) {
		grow(t, l, i+1)
	}
	u := fromURL(t, serve(t, Handler(l, Options{})), Limits{})
	for _, c := range []struct {
		after uint64
		max   int
		first uint64
		n     int
	}{{0, 10000, 1, 2500}, {0, 2500, 1, 2500}, {0, 1000, 1, 1000}, {0, 1001, 1, 1001}, {7, 5, 8, 5}, {2499, 5, 2500, 1}, {2500, 5, 0, 0}, {1 << 63, 1, 0, 0}, {0, 0, 0, 0}} {
		got, err := u.Sizes(t.Context(), c.after, c.max)
		if err != nil || len(got) != c.n || c.n > 0 && (got[0] != c.first || got[c.n-1] != c.first+uint64(c.n)-1) {
			t.Errorf("after %d at most %d: %d sizes, %v", c.after, c.max, len(got), err)
		}
	}
}

// TestClient is that what the caller set on his client stays, and that his client is left alone.
func TestClient(t *testing.T) {
	mine := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("mine") }}
	base := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", 302) }))
	l, err := FromURL(base, mine, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Checkpoint(t.Context()); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Error(err)
	}
	if _, err := mine.Get(base); err == nil || !strings.Contains(err.Error(), "mine") {
		t.Error(err)
	}
}
