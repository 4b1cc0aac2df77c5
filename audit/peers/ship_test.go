package peers

import (
	"encoding/json"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/octetcounting"
	"github.com/leodido/go-syslog/v4/rfc5424"

	"github.com/tallystick/tallystick/audit/ship"
	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/tlogtest"
)

// A parser of RFC 5424 in the frames of RFC 5425 that we did not write takes every message that is shipped.
func TestSyslog(t *testing.T) {
	const n = 300
	l := tlogtest.Start(t, tlogtest.Config{Manual: true})
	began := time.Date(2026, 11, 2, 9, 30, 0, 123456000, time.UTC)
	for i := range n {
		e := record.Entry{Kind: record.Heartbeat, By: "gw-1", Boot: record.ID{1}, Seq: uint64(i + 1), Time: began.Add(time.Duration(i) * time.Second), Beat: true}
		b, err := e.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), tlog.Leaf{Entry: b}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Publish(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	results := make(chan *syslog.Result, n+100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			octetcounting.NewParser(syslog.WithListener(func(r *syslog.Result) { results <- r })).Parse(c)
			c.Close()
		}
	}()
	sink, err := ship.Open("syslog+tcp://"+ln.Addr().String(), ship.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := ship.New(ship.Config{Log: l, Sink: sink, Mark: filepath.Join(t.TempDir(), "mark"), Once: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r := <-results
		m, ok := r.Message.(*rfc5424.SyslogMessage)
		if r.Error != nil || !ok || !m.Valid() {
			t.Fatalf("message %d: %v, %+v", i, r.Error, m)
		}
		var line struct{ Index int }
		if err := json.Unmarshal([]byte(*m.Message), &line); err != nil || line.Index != i {
			t.Fatalf("message %d: %v: %s", i, err, *m.Message)
		}
		if *m.Facility != 13 || *m.Severity != 6 || *m.Hostname != "gw-1" || *m.Appname != "tallystick" || *m.MsgID != "heartbeat" || !m.Timestamp.Equal(began.Add(time.Duration(i)*time.Second)) {
			t.Errorf("message %d: %+v", i, m)
		}
	}
}
