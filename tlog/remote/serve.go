package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tallystick/tallystick/tlog"
)

// Run serves on ln, which it closes, until ctx ends; then it takes nothing new, answers what it has begun to, and returns
// nil. It returns early when nothing can be appended any more because the outcome of an append is unknown: end the
// process then, and open the log again. A log in quarantine is served to its readers on, and Run says at its end why.
// End the engine's Run after this one.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	if s.cfg.TLS == nil {
		if a, ok := ln.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			return fmt.Errorf("tlog/remote: plain HTTP on %s would show tokens to the network; name a certificate, or listen on the loopback", ln.Addr())
		}
	}
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: s.cfg.Stall, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: maxHead,
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	d := &door{Listener: ln, free: make(chan struct{}, s.cfg.Connections), shut: make(chan struct{})}
	serve := func() error { return srv.Serve(d) }
	if s.cfg.TLS != nil {
		srv.TLSConfig = s.cfg.TLS.Clone()
		srv.TLSConfig.MinVersion = max(srv.TLSConfig.MinVersion, tls.VersionTLS12)
		srv.TLSConfig.ClientAuth = tls.RequestClientCert // whose it is, and whether that is enough, each request asks
		serve = func() error { return srv.ServeTLS(d, "", "") }
	}
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	var err error
	for serving, broken := true, s.broken; serving; {
		select {
		case err := <-ended:
			srv.Close()
			return fmt.Errorf("tlog/remote: serving on %s: %w", ln.Addr(), err)
		case <-ctx.Done():
			serving = false
		case <-broken:
			broken = nil
			s.mu.Lock()
			err = s.stopped
			s.mu.Unlock()
			serving = errors.Is(err, tlog.ErrQuarantine)
		}
	}
	s.end()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close()
	}
	if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) && err == nil {
		err = fmt.Errorf("tlog/remote: serving on %s: %w", ln.Addr(), serr)
	}
	return err
}

// A door lets in so many connections at a time as free can hold.
type door struct {
	net.Listener
	free  chan struct{} // holds one for each that is in
	shut  chan struct{}
	close sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case d.free <- struct{}{}:
	case <-d.shut:
		return nil, net.ErrClosed
	}
	c, err := d.Listener.Accept()
	if err != nil {
		<-d.free
		return nil, err
	}
	return &guest{Conn: c, leave: sync.OnceFunc(func() { <-d.free })}, nil
}

func (d *door) Close() error {
	d.close.Do(func() { close(d.shut) })
	return d.Listener.Close()
}

// A guest gives its place back when it leaves.
type guest struct {
	net.Conn
	leave func()
}

func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
