package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/keys/file"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/witness"
)

// An onlooker is the demo's witness. A real one is somebody else's, on a machine of theirs; this one runs here, so that there
// is something to see, with a key and a memory of its own that lie where the anchor does.
type onlooker struct {
	dir string
	key *tlog.CosignatureSigner
	ln  net.Listener
}

// onlook finds the witness's key, or makes one, and takes a port.
func onlook(dir, name string) (*onlooker, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the demo's witness: %w", err)
	}
	path := filepath.Join(dir, "witness.key")
	key, err := file.LoadCosigner(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = file.CreateCosigner(path, name, file.Ed25519Cosigner)
	}
	if err != nil {
		return nil, fmt.Errorf("the demo's witness: %w", err)
	}
	o := &onlooker{dir: dir, key: key}
	o.ln, err = listen("the demo's witness", "127.0.0.1:0")
	return o, err
}

// policy is what believes the log when the witness has cosigned.
func (o *onlooker) policy(vkey, logURL string) []byte {
	return fmt.Appendf(nil, "log %s %s\nwitness demo %s http://%s\nquorum demo\n", vkey, logURL, o.key.VerifierKey(), o.ln.Addr())
}

// run answers until ctx ends.
func (o *onlooker) run(ctx context.Context, vkey string, log *slog.Logger) error {
	defer o.ln.Close()
	list, err := witness.ParseLogList([]byte("log " + vkey + "\nquorum none\n"))
	if err != nil {
		return fmt.Errorf("the demo's witness: %w", err)
	}
	store, err := witness.OpenStore(filepath.Join(o.dir, "state"))
	if err != nil {
		return fmt.Errorf("the demo's witness: %w", err)
	}
	defer store.Close()
	w, err := witness.New(ctx, witness.Config{Keys: []*tlog.CosignatureSigner{o.key}, Logs: list, State: store, Evidence: store, Log: log.With("who", "witness")})
	if err != nil {
		return fmt.Errorf("the demo's witness: %w", err)
	}
	srv := &http.Server{Handler: w.Handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(o.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the demo's witness: %w", err)
	}
	return nil
}
