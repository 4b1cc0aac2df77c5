package monitor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// beMonitor makes the test binary be a monitor: what is killed is a process of its own. Its value is the URL of the log.
const beMonitor = "TALLY_TEST_BE_MONITOR"

func TestMain(m *testing.M) {
	if url := os.Getenv(beMonitor); url != "" {
		os.Exit(be(url, os.Args[1]))
	}
	os.Exit(m.Run())
}

// be is a monitor in the directory dir, which has the policy beside it. It prints what it tells.
func be(url, dir string) int {
	text, err := os.ReadFile(dir + ".policy")
	if err != nil {
		panic(err)
	}
	policy, err := tlog.ParsePolicy(text)
	if err != nil {
		panic(err)
	}
	m, err := New(Config{
		URLs: []string{url}, Dir: dir, Policy: policy, Witnesses: []string{url + "/witness"}, Interval: 2 * time.Millisecond,
		Tell: func(e Event) { json.NewEncoder(os.Stdout).Encode(e) },
	})
	if err != nil {
		panic(err)
	}
	err = m.Run(context.Background())
	var found *Found
	if errors.As(err, &found) {
		return 1
	}
	println(err.Error())
	return 2
}

// A monitor is killed at random, again and again, within rounds and between them, while the log grows. It never forgets a
// size that it said it had come to, and never accuses the log, which is honest; and when that forks it is found out, whenever
// the monitor is killed.
func TestKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	w := newWorld(t)
	w.pen.start()
	w.pen.beat(300)
	if err := os.WriteFile(w.dir+".policy", w.conf.Policy.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, req *http.Request) {
		w.net.mu.Lock()
		h := w.net.hosts[logHost]
		w.net.mu.Unlock()
		h.ServeHTTP(rw, req)
	})
	mux.Handle("/witness/", http.StripPrefix("/witness", w.witness))
	server := httptest.NewServer(mux)
	defer server.Close()

	// life runs the monitor until it is killed, after about so long, or ends by itself. It returns what it told and its exit
	// code, -1 if it was killed.
	life := func(kill time.Duration) (es []Event, code int) {
		cmd := exec.Command(os.Args[0], w.dir)
		cmd.Env = append(os.Environ(), beMonitor+"="+server.URL)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer time.AfterFunc(kill, func() { cmd.Process.Kill() }).Stop()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				break // cut off by its death
			}
			es = append(es, e)
		}
		cmd.Wait()
		return es, cmd.ProcessState.ExitCode()
	}

	// The log grows, and the witness sees it before anybody.
	grow, stop := context.WithCancel(t.Context())
	grown := make(chan struct{})
	go func() {
		defer close(grown)
		for grow.Err() == nil {
			w.pen.beat(1)
			signed, err := w.log.Checkpoint(context.Background())
			if err == nil {
				w.witness.set(func(x *witness) { x.shown = signed })
			}
			time.Sleep(time.Millisecond)
		}
	}()
	kills := 25
	if testing.Short() {
		kills = 8
	}
	var size uint64
	grew := 0
	for i := range kills {
		es, code := life(time.Duration(rnd.IntN(600)) * time.Millisecond)
		if code != -1 {
			t.Fatalf("life %d: it ended by itself, with %d: %+v", i, code, es)
		}
		for _, e := range es {
			switch {
			case e.Level != Note:
				t.Fatalf("life %d: %+v", i, e)
			case e.Kind == Following && size > 0 && (e.Size == nil || *e.Size < size):
				t.Fatalf("life %d: it had come to %d, and follows %+v", i, size, e)
			case e.Kind == Grown:
				grew++
				fallthrough
			case e.Kind == Following && e.Size != nil:
				size = *e.Size
			}
		}
	}
	stop()
	<-grown
	t.Logf("killed %d times; it saw the log grow %d times, to %d entries", kills, grew, size)
	if grew < kills/4 {
		t.Skip("this machine is too slow for the monitor to see anything before it is killed")
	}

	f, _ := w.fork(200, int(w.log.Size()))
	w.serve(f)
	for range 5 {
		es, code := life(time.Duration(rnd.IntN(300)) * time.Millisecond)
		if code != -1 && code != 1 {
			t.Fatalf("it ended with %d: %+v", code, es)
		}
	}
	es, code := life(time.Minute)
	if code != 1 || kinds(es) != "following fork stopped" {
		t.Fatalf("of a fork it tells: %q, and ends with %d", kinds(es), code)
	}
	if got := w.evidences(); len(got) != 1 {
		t.Errorf("%d pieces of evidence", len(got))
	}
	if got := w.remembered(); got.Size < size {
		t.Errorf("it remembers %d and had come to %d", got.Size, size)
	}
	left, _ := filepath.Glob(filepath.Join(w.dir, "evidence", "*.new"))
	t.Logf("left by deaths: %q", left)
}
