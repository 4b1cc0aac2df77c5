package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Ops is where this process tells how it does, to those who run it and to nobody else: GET /metrics in Prometheus's text format,
// /healthz, which answers 200 while the process lives, /readyz, which says in words what keeps calls from passing, and what the Go
// runtime tells of itself below /debug/pprof/. Nothing of any call's content is there, nor the name of a caller; but how many calls
// there are, and to which routes, is nobody else's business either:
//
//	ops:
//	  listen: 127.0.0.1:9464
//	  models: [gpt-5, gpt-5-mini]
//
// cmd/tally/alerts.yaml has rules, and cmd/tally/dashboard.json a dashboard for Grafana.
type Ops struct {
	// Listen is the address; by default nowhere. Its host is said: 127.0.0.1, or an address of a network that only those reach who
	// may know. There is no log-in.
	Listen string `yaml:"listen"`
	// Models are the names of models that metrics tell apart; every other is other. By default none is told apart: what callers
	// write into that place is theirs to choose.
	Models []string `yaml:"models"`
	// Profiles serves /debug/pprof/ also where listen is no loopback address. Whoever can reach it can have the process use its time
	// for him.
	Profiles bool `yaml:"profiles"`
}

// Traces says where spans of calls are sent, in OpenTelemetry's protocol over HTTP; see gateway/otel. They have the names of routes,
// models and rules, numbers and times, and the session's id, which leads to the record; and nothing of any call's content.
//
//	traces:
//	  endpoint: http://127.0.0.1:4318/v1/traces
//	  headers:
//	    api-key: {env: COLLECTOR_KEY}
//	  sample: 0.1
type Traces struct {
	// Endpoint is the collector's URL; by default what the variables of the OTLP exporter say, OTEL_EXPORTER_OTLP_ENDPOINT and so on.
	Endpoint string                `yaml:"endpoint"`
	Headers  map[string]Credential `yaml:"headers"` // of requests to it
	Sample   float64               `yaml:"sample"`  // the part of calls that is followed, above 0 to 1; by default 1, which is all
	// Callers says what becomes of the trace that a caller says its call is a part of, which is the caller's word alone: link, parent
	// or ignore; by default link. With parent callers decide which calls are followed.
	Callers string `yaml:"callers"`
	// Models shows models the trace that their call is a part of, in the header traceparent, in the place of the caller's. By
	// default what the caller sent passes.
	Models bool `yaml:"models"`
	Queue  int  `yaml:"queue"` // spans that wait to be sent, at most; by default 4096. Others are dropped, and counted
}

// maxModels is how many models are told apart at most: each has histograms of its own on each route.
const maxModels = 50

func (c *Config) checkOps() error {
	if o := c.Ops; o.Listen != "" {
		host, _, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return fmt.Errorf("ops.listen: %w", err)
		}
		if host == "" {
			return fmt.Errorf("ops.listen is %s, and would be for everybody; say which host, for example 127.0.0.1%s", o.Listen, o.Listen)
		}
	} else if len(o.Models) > 0 || o.Profiles {
		return errors.New("ops is here and no ops.listen; give it, for example listen: 127.0.0.1:9464")
	}
	if len(c.Ops.Models) > maxModels || slices.Contains(c.Ops.Models, "") || slices.Contains(c.Ops.Models, "other") {
		return fmt.Errorf("ops.models has up to %d names, none of them empty or other", maxModels)
	}
	t := c.Traces
	switch {
	case t == nil:
		return nil
	case !c.HasGateway():
		return errors.New("traces is here and no gateway, whose calls they are of; it belongs in the gateway's file")
	case t.Sample < 0 || t.Sample > 1:
		return fmt.Errorf("traces.sample is %v; it is above 0 to 1", t.Sample)
	case t.Queue < 0:
		return fmt.Errorf("traces.queue is %d; it is a number of spans", t.Queue)
	}
	if !slices.Contains([]string{"", "link", "parent", "ignore"}, t.Callers) {
		return fmt.Errorf("traces.callers is %q; it is link, parent or ignore", t.Callers)
	}
	if t.Endpoint != "" {
		if u, err := url.Parse(t.Endpoint); err != nil || u.Host == "" || u.User != nil || !strings.HasPrefix(u.Scheme, "http") {
			return errors.New("traces.endpoint is a URL such as http://127.0.0.1:4318/v1/traces, without a user in it; a key goes into traces.headers")
		}
	}
	return nil
}

// Private says whether ops is for this machine alone.
func (o Ops) Private() bool {
	host, _, _ := net.SplitHostPort(o.Listen)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (t *Traces) resolve(at func(*string)) {
	if t == nil {
		return
	}
	for name, c := range t.Headers {
		at(&c.File)
		t.Headers[name] = c
	}
}
