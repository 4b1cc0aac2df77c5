package peers

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/goccy/go-yaml"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/prometheus/prometheus/promql/parser"
)

// metrics are those of ../tally/metrics.txt with their labels, which a test there holds against what is told.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../tally/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{"process_resident_memory_bytes": nil, "process_cpu_seconds_total": nil, "go_goroutines": nil}
	for _, m := range regexp.MustCompile(`(?m)^(\w+)\{([\w,]*)\}\t`).FindAllStringSubmatch(string(text), -1) {
		out[m[1]] = strings.Split(m[2], ",")
	}
	if len(out) < 60 {
		t.Fatalf("%d metrics", len(out))
	}
	return out
}

// check parses an expression, and looks whether every metric in it is there and has the labels that are asked of it. What Grafana puts
// in the place of a variable stands for it.
func check(t *testing.T, where, expr string, there map[string][]string) {
	t.Helper()
	e, err := parser.ParseExpr(strings.NewReplacer("$__rate_interval", "5m", "$job", "x", "$instance", "x", "$route", "x").Replace(expr))
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	usual := []string{"__name__", "job", "instance", "le"}
	labels := slices.Clone(usual) // that there are below the node
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		of, known := there[v.Name]
		if !known {
			of, known = there[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(v.Name, "")]
		}
		if !known {
			t.Errorf("%s: there is no metric %s", where, v.Name)
		}
		labels = append(labels, of...)
		for _, m := range v.LabelMatchers {
			if !slices.Contains(usual, m.Name) && !slices.Contains(of, m.Name) {
				t.Errorf("%s: %s has no label %s", where, v.Name, m.Name)
			}
		}
		return nil
	})
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, l := range a.Grouping {
				if !slices.Contains(labels, l) {
					t.Errorf("%s: nothing in it has the label %s", where, l)
				}
			}
		}
		return nil
	})
}

func TestRules(t *testing.T) {
	text, err := os.ReadFile("../tally/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	there, names := metrics(t), make(map[string]bool)
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			check(t, r.Alert, r.Expr, there)
			if names[r.Alert] {
				t.Errorf("two rules are named %s", r.Alert)
			}
			names[r.Alert] = true
			for what, a := range r.Annotations {
				functions := template.FuncMap{"humanize": fmt.Sprint, "humanize1024": fmt.Sprint, "humanizeDuration": fmt.Sprint}
				tmpl, err := template.New(what).Funcs(functions).Parse("{{$labels := .Labels}}{{$value := .Value}}" + a)
				if err == nil {
					err = tmpl.Execute(new(strings.Builder), struct {
						Labels map[string]string
						Value  float64
					}{map[string]string{}, 1})
				}
				if err != nil {
					t.Errorf("%s: %s: %v", r.Alert, what, err)
				}
			}
		}
	}
	if len(names) < 25 {
		t.Errorf("%d rules", len(names))
	}
}

func TestDashboard(t *testing.T) {
	kinds := cog.NewRuntime()
	kinds.RegisterPanelcfgVariant(timeseries.VariantConfig())
	kinds.RegisterPanelcfgVariant(stat.VariantConfig())
	kinds.RegisterDataqueryVariant(prometheus.VariantConfig())
	text, err := os.ReadFile("../tally/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard.Dashboard
	for _, err := range []error{d.UnmarshalJSONStrict(text), d.Validate()} {
		if err != nil && err.Error() != "" { // an empty list of errors is none
			t.Error(err)
		}
	}
	// What is read strictly is looked at; it does not come whole out of it.
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	there, ids, queries := metrics(t), make(map[uint32]bool), 0
	taken := make(map[[2]uint32]string)
	for _, p := range d.Panels {
		if r := p.RowPanel; r != nil {
			if ids[r.Id] {
				t.Errorf("%s: two panels have the id %d", *r.Title, r.Id)
			}
			ids[r.Id] = true
			continue
		}
		title, id := *p.Panel.Title, *p.Panel.Id
		if ids[id] {
			t.Errorf("%s: two panels have the id %d", title, id)
		}
		ids[id] = true
		if p.Panel.Description == nil || *p.Panel.Description == "" || p.Panel.FieldConfig.Defaults.Unit == nil {
			t.Errorf("%s: it does not say what it shows, or in which unit", title)
		}
		for x := p.Panel.GridPos.X; x < p.Panel.GridPos.X+p.Panel.GridPos.W; x++ {
			for y := p.Panel.GridPos.Y; y < p.Panel.GridPos.Y+p.Panel.GridPos.H; y++ {
				if was := taken[[2]uint32{x, y}]; was != "" || x >= 24 {
					t.Fatalf("%s lies upon %s, or beside the board", title, was)
				}
				taken[[2]uint32{x, y}] = title
			}
		}
		refs := make(map[string]bool)
		for _, q := range p.Panel.Targets {
			x, ok := q.(*prometheus.Dataquery)
			if !ok {
				y, is := q.(prometheus.Dataquery)
				if !is {
					t.Fatalf("%s: a %T", title, q)
				}
				x = &y
			}
			queries++
			check(t, title, x.Expr, there)
			if x.Datasource == nil || *x.Datasource.Uid != "${datasource}" || refs[*x.RefId] {
				t.Errorf("%s: %+v", title, x)
			}
			refs[*x.RefId] = true
		}
	}
	if queries < 40 {
		t.Errorf("%d queries", queries)
	}
}
