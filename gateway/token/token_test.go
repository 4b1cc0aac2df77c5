package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var alice = &gateway.Principal{
	Name: "okta:00u1", How: gateway.ByOIDC, Key: "jti", Issuer: "https://okta.example", Subject: "00u1", Email: "alice@example.com",
	Groups: []string{"eng", "approvers"}, At: time.Unix(1e9, 0).UTC(), Until: time.Unix(2e9, 0).UTC(),
}

func identify(s *Store, token string) (*gateway.Principal, error) {
	return s.Identify(context.Background(), gateway.Shown{Bearer: []byte(token)})
}

func why(err error) string {
	var s *gateway.Stranger
	switch {
	case err == nil:
		return ""
	case errors.Is(err, gateway.ErrNotMine):
		return "not mine"
	case errors.As(err, &s):
		return s.Why
	}
	return err.Error()
}

// The life of a token: minted, shown, kept through a restart, revoked, gone through another.
func TestLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tokens")
	s := open(t, dir)
	value, tok, err := s.Mint(alice, Bearer, "laptop", 12*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(value, "tg-") || len(value) != 43 || strings.Trim(value[3:], "abcdefghijklmnopqrstuvwxyz234567") != "" {
		t.Errorf("the token is %q", value)
	}
	session, _, err := s.Mint(alice, Session, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	want := *alice
	want.How, want.Key, want.Until = gateway.ByToken, tok.ID, tok.Expires
	check := func(s *Store) {
		t.Helper()
		who, err := identify(s, value)
		if err != nil || !reflect.DeepEqual(*who, want) {
			t.Errorf("%+v, %v\nwant %+v", who, err, want)
		}
		for _, c := range []struct{ value, want string }{
			{session, "not mine"}, {"tg-" + session[3:], "unknown"}, {value[:42], "unknown"}, {value + "a", "unknown"}, {"tg-", "unknown"},
			{strings.ToUpper(value), "not mine"}, {"tg-" + strings.Repeat("a", 40), "unknown"}, {"sk-123", "not mine"}, {"", "not mine"}, {tok.ID, "not mine"},
		} {
			if who, err := identify(s, c.value); who != nil || why(err) != c.want {
				t.Errorf("%q: %v, %v, want %q", c.value, who, err, c.want)
			}
		}
		if got, err := s.Session(session); err != nil || got.Principal.Name != want.Name || got.Kind != Session {
			t.Errorf("the session: %+v, %v", got, err)
		}
		for _, c := range []struct{ value, want string }{{value, "not mine"}, {"ts-" + value[3:], "unknown"}, {"", "not mine"}} {
			if _, err := s.Session(c.value); why(err) != c.want {
				t.Errorf("%q as a session: %v, want %q", c.value, err, c.want)
			}
		}
		if l := s.List(); len(l) != 2 || l[0].ID != tok.ID && l[1].ID != tok.ID {
			t.Errorf("%d in the list", len(l))
		}
	}
	check(s)
	s = open(t, dir)
	check(s)
	// Nothing of the token is in the directory, and nobody else can read it.
	for _, f := range must(os.ReadDir(dir)) {
		b := must(os.ReadFile(filepath.Join(dir, f.Name())))
		if bytes.Contains(b, []byte(value[3:11])) || bytes.Contains(b, []byte(session[3:11])) || must(f.Info()).Mode().Perm() != 0o600 {
			t.Errorf("%s (%v): %s", f.Name(), must(f.Info()).Mode(), b)
		}
	}
	if err := s.Revoke(tok.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{tok.ID, "", "../../etc/passwd", strings.Repeat("0", 24)} {
		if err := s.Revoke(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	for range 2 {
		if _, err := identify(s, value); why(err) != "unknown" {
			t.Errorf("revoked: %v", err)
		}
		s = open(t, dir)
	}
	if l := s.List(); len(l) != 1 {
		t.Errorf("%d in the list", len(l))
	}
}

func TestMint(t *testing.T) {
	s := open(t, t.TempDir())
	for _, c := range []struct {
		p    *gateway.Principal
		kind Kind
		name string
		life time.Duration
	}{
		{nil, Bearer, "", time.Hour}, {&gateway.Principal{}, Bearer, "", time.Hour}, {&gateway.Principal{Name: strings.Repeat("a", 201)}, Bearer, "", time.Hour},
		{&gateway.Principal{Name: "a\nb"}, Bearer, "", time.Hour}, {alice, "other", "", time.Hour}, {alice, Bearer, "a\x00", time.Hour}, {alice, Bearer, strings.Repeat("a", 101), time.Hour},
		{alice, Bearer, "", 0}, {alice, Bearer, "", -1}, {alice, Bearer, "", Longest + 1},
	} {
		if v, _, err := s.Mint(c.p, c.kind, c.name, c.life); err == nil || v != "" {
			t.Errorf("%+v was minted", c)
		}
	}
	if len(s.List()) != 0 {
		t.Error("something was minted")
	}
	// None of these is all routes.
	p := *alice
	p.Routes = []string{}
	v, _, err := s.Mint(&p, Bearer, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if who := must(identify(open(t, s.dir), v)); who.Routes == nil {
		t.Error("a principal that may use no route may use all after a restart")
	}
}

// A token ends to the second, and its file goes away after it.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Second / 2) // so that it does not expire at the very time of a sweep
		v, tok, err := s.Mint(alice, Bearer, "", time.Hour+10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(tok.Expires) - 1)
		if _, err := identify(s, v); err != nil {
			t.Error(err)
		}
		time.Sleep(1)
		if _, err := identify(s, v); why(err) != "expired" {
			t.Errorf("%v", err)
		}
		if len(s.List()) != 0 {
			t.Error("an expired token is listed")
		}
		time.Sleep(2 * time.Minute)
		if _, err := identify(s, v); why(err) != "unknown" || len(must(os.ReadDir(s.dir))) != 0 {
			t.Errorf("%v", err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// A command revokes beside the gateway, which notices.
func TestBeside(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { stop(); <-ended }()
	v, tok, err := s.Mint(alice, Bearer, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keep, _, _ := s.Mint(alice, Bearer, "", time.Hour)
	command := open(t, dir)
	if len(command.List()) != 2 {
		t.Errorf("%d tokens", len(command.List()))
	}
	if err := command.Revoke(tok.ID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := identify(s, v); why(err) == "unknown" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the gateway takes the token still")
		}
	}
	if _, err := identify(s, keep); err != nil {
		t.Error(err)
	}
	// And what a command mints.
	made, _, err := command.Mint(alice, Bearer, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := identify(s, made); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the gateway does not know the token")
		}
	}
}

// What may lie in the directory, and whom it makes known: nobody.
func TestFiles(t *testing.T) {
	value := "tg-" + strings.Repeat("a", 40)
	sum := sha256.Sum256([]byte(value))
	fine := func(change func(*file)) []byte {
		f := file{Version: 1, SHA256: hex.EncodeToString(sum[:]), Kind: Bearer, Principal: "okta:1", Created: time.Now(), Expires: time.Now().Add(time.Hour)}
		if change != nil {
			change(&f)
		}
		return must(json.Marshal(f))
	}
	for _, c := range []struct {
		name    string
		content []byte
		want    string
	}{
		{id(sum), fine(nil), ""},
		{"0" + id(sum)[1:], fine(nil), "another token"},
		{"notes.txt", fine(nil), "not called like a token"},
		{id(sum), nil, "not the JSON"},
		{id(sum), fine(nil)[:50], "not the JSON"},
		{id(sum), append(fine(nil), '{'), "follows"},
		{id(sum), bytes.Replace(fine(nil), []byte(`"version"`), []byte(`"admin":true,"version"`), 1), "not the JSON"},
		{id(sum), fine(func(f *file) { f.Version = 2 }), "version"},
		{id(sum), fine(func(f *file) { f.SHA256 = "00" }), "sha256"},
		{id(sum), fine(func(f *file) { f.Kind = "" }), "kind"},
		{id(sum), fine(func(f *file) { f.Principal = "" }), "nobody"},
		{id(sum), fine(func(f *file) { f.Principal = "a\nb" }), "nobody"},
		{id(sum), fine(func(f *file) { f.Expires = f.Created.Add(Longest + 1) }), "too long"},
		{id(sum), fine(func(f *file) { f.Expires = f.Created.Add(-1) }), "too long"},
		{id(sum), make([]byte, maxFile+1), "over"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, c.name), c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		log := new(bytes.Buffer)
		s, err := Open(dir, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = identify(s, value)
		if (err == nil) != (c.want == "") || c.want != "" && !strings.Contains(log.String(), c.want) {
			t.Errorf("%s %.80q: %v, %s, want %q", c.name, c.content, err, log, c.want)
		}
		if _, err := os.Stat(filepath.Join(dir, c.name)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if strings.Count(log.String(), "\n") > 1 {
			t.Errorf("it is said twice: %s", log)
		}
	}
}

// A gateway that dies while it mints leaves nothing that makes anybody known.
func TestUnfinished(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	v, tok, _ := s.Mint(alice, Bearer, "", time.Hour)
	path := filepath.Join(dir, tok.ID)
	if err := os.Rename(path, path+unfinished); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, err := identify(s, v); why(err) != "unknown" {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path + unfinished); err != nil {
		t.Error("what another process may be writing was taken away")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path+unfinished, old, old); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if left := must(os.ReadDir(dir)); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	// Where it cannot be written, nothing is handed out.
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if v, tok, err := s.Mint(alice, Bearer, "", time.Hour); err == nil || v != "" || tok != nil || len(s.List()) != 0 {
		t.Errorf("%q %v %v", v, tok, err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open("", nil); err == nil {
		t.Error("no directory")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory that others can write to: %v", err)
	}
	made := filepath.Join(t.TempDir(), "a", "b")
	open(t, made)
	if st := must(os.Stat(made)); st.Mode().Perm() != 0o700 {
		t.Errorf("%v", st.Mode())
	}
}

func TestConcurrent(t *testing.T) {
	s := open(t, t.TempDir())
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 20 {
				p := *alice
				p.Name = fmt.Sprintf("okta:%d-%d", i, j)
				v, tok, err := s.Mint(&p, Bearer, "", time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				if who, err := identify(s, v); err != nil || who.Name != p.Name {
					t.Errorf("%v %v", who, err)
				}
				if j%2 == 0 {
					if err := s.Revoke(tok.ID); err != nil {
						t.Error(err)
					}
				}
				s.reread()
			}
		})
	}
	all.Wait()
	if n := len(s.List()); n != 40 {
		t.Errorf("%d tokens, want 40", n)
	}
	if n := len(open(t, s.dir).List()); n != 40 {
		t.Errorf("%d tokens on the disk, want 40", n)
	}
}

// What is read from a file is written as it was, and nobody without a name is read.
func FuzzParse(f *testing.F) {
	s := open(f, f.TempDir())
	if _, _, err := s.Mint(alice, Bearer, "laptop", time.Hour); err != nil {
		f.Fatal(err)
	}
	for _, e := range must(os.ReadDir(s.dir)) {
		f.Add(e.Name(), must(os.ReadFile(filepath.Join(s.dir, e.Name()))))
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		sum, tok, err := parse(name, b)
		if err != nil {
			return
		}
		if tok.Principal.Name == "" || tok.Principal.How != gateway.ByToken || tok.Principal.Key != name || !tok.Principal.Until.Equal(tok.Expires) {
			t.Fatalf("%+v", tok.Principal)
		}
		sum2, again, err := parse(name, must(json.Marshal(fileOf(sum, tok))))
		if err != nil || sum != sum2 || fmt.Sprint(*tok.Principal) != fmt.Sprint(*again.Principal) {
			t.Fatalf("%+v\n%+v\n%v", tok.Principal, again, err)
		}
	})
}

func BenchmarkIdentify(b *testing.B) {
	s := open(b, b.TempDir())
	v, _, err := s.Mint(alice, Bearer, "", time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, value, want string }{{"known", v, ""}, {"unknown", "tg-" + strings.Repeat("a", 40), "unknown"}} {
		b.Run(c.name, func(b *testing.B) {
			shown := gateway.Shown{Bearer: []byte(c.value)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Identify(context.Background(), shown); why(err) != c.want {
					b.Fatal(err)
				}
			}
		})
	}
}
