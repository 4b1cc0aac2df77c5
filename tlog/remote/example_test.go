package remote_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/remote"
	"github.com/tallystick/tallystick/tlog/tlogtest"
	"golang.org/x/mod/sumdb/note"
)

// Two processes in one: the log with its server, and a writer before it. The server takes entries and nothing else, and of
// a writer only its own.
func Example() {
	ctx := context.Background()
	const origin = "log.example/2026"
	certificate, roots := selfSigned()
	token := secret("a-token-of-128-random-bits-or-more")
	sum := sha256.Sum256(token)

	// The log's process.
	signer, vkey := tlogtest.Key(origin)
	verifier, err := note.NewVerifier(vkey)
	check(err)
	engine, err := local.Open("/log", local.Config{
		Origin: origin, Signer: signer, Verifier: verifier, Latest: new(tlogtest.Latest), FS: vfs.NewMem(), Interval: time.Millisecond,
	})
	check(err)
	server, err := remote.NewServer(engine, remote.ServerConfig{
		Origin: origin,
		Clients: []remote.Client{{
			Name: "the gateway in Oslo", Tokens: []string{hex.EncodeToString(sum[:])},
			Writers: []string{"gw-1", "gw-1.desk"}, Payloads: true,
		}},
		Check: func(writer string, entry []byte) error {
			e, err := record.ParseEntry(entry)
			if err == nil && e.By != writer {
				err = fmt.Errorf("an entry by %q from the writer %q", e.By, writer)
			}
			return err
		},
		TLS: &tls.Config{Certificates: []tls.Certificate{certificate}},
	})
	check(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	stopLog := start(ctx, engine.Run)
	stopServer := start(ctx, func(ctx context.Context) error { return server.Run(ctx, ln) })

	// The gateway's process: one Log for each of its writers.
	log, err := remote.New(remote.Config{
		URL: "https://" + ln.Addr().String(), Origin: origin, Writer: "gw-1", Token: token, TLS: &tls.Config{RootCAs: roots},
	})
	check(err)
	pen, err := record.NewWriter(record.WriterConfig{ID: "gw-1", Log: log, Reader: log, Software: "example/1", Mode: "strict"})
	check(err)
	stopClient := start(ctx, log.Run)
	stopPen := start(ctx, pen.Run)
	_, err = pen.Unfinished(ctx)
	check(err)
	_, err = log.Append(ctx, tlog.Leaf{Entry: []byte("not an entry")})
	fmt.Println(err)

	// What ends first needs the others to end well.
	stopPen()
	stopClient()
	check(log.Close())
	stopServer()
	stopLog()
	fmt.Println(engine.Size(), "entries: a start and a stop")
	check(engine.Close())

	// Output:
	// the log answers: tlog/remote: the log does not take this: entry 0: record: not an entry: byte 0 is not the beginning of {"v":
	// 2 entries: a start and a stop
}

type secret []byte

func (s secret) Reveal() []byte { return s }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// start runs something until stop is called.
func start(ctx context.Context, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return func() {
		cancel()
		check(<-ended)
	}
}

// selfSigned makes a certificate for the loopback, and the pool of those who trust it.
func selfSigned() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	leaf, err := x509.ParseCertificate(der)
	check(err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}
