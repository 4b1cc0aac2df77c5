package config

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/keys"
)

// A Setting is one key of a configuration and what it says, as it may be shown.
type Setting struct{ Name, Value string }

// plainly are the keys whose text is shown as it stands; in a list or a map, that of all. Of every other key with a text it is said
// that it is given, and no more: what is added to a configuration is not shown because somebody forgot that it is a secret.
var plainly = []string{
	"log", "origin", "public_key", "anchor", "head", "policy", "listen", "data_keys.dir", "search", "serve_log.listen", "serve_log.clients.*.writers",
	"mirrors.*.submission", "mirrors.*.monitoring", "retention.*.routes", "retention.*.callers", "retention.*.basis", "retention.*.hold",
	"gateway.id", "gateway.listen", "gateway.mode", "gateway.journal", "gateway.hosts", "gateway.policy", "gateway.callers.*.groups", "gateway.callers.*.routes",
	"gateway.routes.*.api", "gateway.routes.*.prefix", "gateway.routes.*.upstream", "gateway.routes.*.header", "gateway.routes.*.forward", "gateway.routes.*.return",
	"gateway.routes.*.mask", "gateway.identity.public", "gateway.identity.tokens.dir", "gateway.identity.issuers.*.url", "gateway.identity.issuers.*.audiences",
	"gateway.identity.issuers.*.groups", "gateway.identity.saml.*.entity", "gateway.identity.saml.*.subject", "gateway.identity.saml.*.email", "gateway.identity.saml.*.groups",
	"gateway.identity.certificates.callers.*.groups", "gateway.identity.certificates.callers.*.routes", "gateway.approvals.groups", "gateway.approvals.glass",
	"gateway.approvals.url", "gateway.approvals.notify.*.kind", "gateway.approvals.hooks.*.kind", "gateway.masking.sets.*.only", "gateway.masking.sets.*.without",
	"gateway.masking.sets.*.with", "gateway.masking.sets.*.actions", "gateway.masking.sets.*.regions", "gateway.masking.sets.*.rules.*.kind",
	"gateway.masking.sets.*.rules.*.action", "console.listen", "console.public", "console.hosts", "console.roles", "console.people", "console.sign_in", "console.policy",
	"ops.listen", "ops.models", "traces.endpoint", "traces.callers",
	"ship.*.content", "ship.*.fields", "ship.*.mark",
}

// Shown returns what a configuration says, for people who may see how something runs: in the order of the fields, without what is left
// out, without secrets, without where secrets are, and without the names and words that are masked.
func (c *Config) Shown() []Setting {
	var all []Setting
	show(&all, "", "", reflect.ValueOf(c).Elem())
	return all
}

// show appends what v says. name is its key, and kind the same with * for what is a name in it.
func show(all *[]Setting, name, kind string, v reflect.Value) {
	say := func(format string, args ...any) { *all = append(*all, Setting{name, fmt.Sprintf(format, args...)}) }
	if v.IsZero() {
		return
	}
	switch x := v.Interface().(type) {
	case keys.Credential:
		say("%s", whereabouts(x.Env, x.File, ""))
		return
	case Credential:
		say("%s", whereabouts(x.Env, x.File, x.Vault))
		return
	case Duration:
		say("%v", time.Duration(x))
		return
	case Hold:
		say("%v", max(0, time.Duration(x)))
		return
	case audit.Age:
		say("%s", x)
		return
	}
	below := func(key, as string, v reflect.Value) {
		show(all, strings.TrimPrefix(name+"."+key, "."), strings.TrimPrefix(kind+"."+as, "."), v)
	}
	open := slices.Contains(plainly, kind)
	switch v.Kind() {
	case reflect.Pointer:
		show(all, name, kind, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ","); key != "" {
				below(key, key, v.Field(i))
			}
		}
	case reflect.Slice:
		switch {
		case v.Type().Elem().Kind() == reflect.Struct:
			for i := range v.Len() {
				key := fmt.Sprint(i + 1)
				if n := v.Index(i).FieldByName("Name"); n.IsValid() && n.String() != "" {
					key = n.String()
				}
				below(key, "*", v.Index(i))
			}
		case open:
			say("%s", list(v))
		default:
			say("%d given", v.Len())
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		if v.Type().Elem().Kind() == reflect.Struct && !strings.HasSuffix(kind, ".people") {
			for _, k := range keys {
				below(k.String(), "*", v.MapIndex(k))
			}
			return
		}
		if !open {
			say("%d given", v.Len())
			return
		}
		for _, k := range keys {
			e := v.MapIndex(k)
			text := e.String()
			if e.Kind() == reflect.Slice {
				text = list(e)
			}
			*all = append(*all, Setting{name + "." + k.String(), text})
		}
	case reflect.String:
		switch {
		case strings.HasSuffix(kind, ".*.name"): // it stands in the key
		case open:
			say("%s", withoutUser(v.String()))
		default:
			say("given")
		}
	case reflect.Bool:
		say("yes")
	default:
		say("%v", v.Interface())
	}
}

func list(v reflect.Value) string {
	all := make([]string, v.Len())
	for i := range all {
		all[i] = withoutUser(v.Index(i).String())
	}
	return strings.Join(all, ", ")
}

// withoutUser is a text without the name, password and query that a URL in it may have.
func withoutUser(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return "given"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func whereabouts(env, file, vault string) string {
	switch {
	case env != "":
		return "a secret in the environment"
	case file != "":
		return "a secret in a file"
	case vault != "":
		return "a secret in Vault"
	}
	return "given"
}
