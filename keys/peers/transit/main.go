// Command transit serves the transit engine and the KV v2 engine of HashiCorp Vault, their own code over HTTP, and nothing
// else of Vault: no seal, no policies, one token, everything in memory or, unprotected, in a directory. It exists so that
// tests sign, encrypt and compare-and-swap with the engines that operators run, in a second and without a Vault.
//
// It prints its address on standard output, and ends when its standard input does.
//
//	transit [-listen ADDRESS] [-dir DIRECTORY]
//
//	transit/    the transit engine of Vault v1.14.8
//	secret/     vault-plugin-secrets-kv v0.15.0, version 2
//	kv1/        the same, version 1
//
// What it is built of is MPL-2.0. It is a module of its own: the product neither imports nor ships it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
)

// token is the one that is accepted. There is nothing here to protect.
const token = "root"

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "the `address`; port 0 takes a free one")
	dir := flag.String("dir", "", "the `directory` that outlives it; by default everything is in memory")
	flag.Parse()
	if err := run(*listen, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "transit:", err)
		os.Exit(1)
	}
}

func run(listen, dir string) error {
	s, err := newServer(context.Background(), dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	if err := http.Serve(l, s); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

type server struct{ mounts map[string]mount }

type mount struct {
	backend logical.Backend
	storage logical.Storage
}

func newServer(ctx context.Context, dir string) (*server, error) {
	s := &server{make(map[string]mount)}
	for _, m := range []struct {
		path    string
		factory logical.Factory
		config  map[string]string
	}{
		{"transit/", transitFactory, nil},
		{"secret/", kv.Factory, map[string]string{"version": "2"}},
		{"kv1/", kv.Factory, map[string]string{"version": "1"}},
	} {
		storage, err := newStorage(dir, m.path)
		if err != nil {
			return nil, err
		}
		conf := &logical.BackendConfig{
			Logger:      hclog.NewNullLogger(),
			System:      logical.StaticSystemView{Primary: true},
			StorageView: storage,
			BackendUUID: "00000000-0000-0000-0000-000000000000",
			Config:      m.config,
		}
		b, err := m.factory(ctx, conf)
		if err == nil {
			err = b.Initialize(ctx, &logical.InitializationRequest{Storage: storage})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.path, err)
		}
		s.mounts[m.path] = mount{b, storage}
	}
	return s, nil
}

// newStorage is memory, or a directory below dir.
func newStorage(dir, mount string) (logical.Storage, error) {
	if dir == "" {
		return new(logical.InmemStorage), nil
	}
	b, err := file.NewFileBackend(map[string]string{"path": filepath.Join(dir, mount)}, hclog.NewNullLogger())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return logical.NewLogicalStorage(b), nil
}

// transitFactory is transit.Factory, with a check that its cache-config lacks and that the sdk insists on.
func transitFactory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b, err := transit.Backend(ctx, conf)
	if err != nil {
		return nil, err
	}
	for _, p := range b.Paths {
		if _, creates := p.Operations[logical.CreateOperation]; creates && p.ExistenceCheck == nil {
			p.ExistenceCheck = func(context.Context, *logical.Request, *framework.FieldData) (bool, error) { return true, nil }
		}
	}
	return b, b.Setup(ctx, conf)
}

// ServeHTTP does what Vault's http package and router do for a request that its policies allow.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok || r.Header.Get("X-Vault-Token") != token {
		logical.RespondError(w, http.StatusForbidden, logical.ErrPermissionDenied)
		return
	}
	if path == "auth/token/lookup-self" {
		answer(w, map[string]any{"ttl": 0, "renewable": false, "policies": []string{"root"}}, nil)
		return
	}
	for prefix, m := range s.mounts {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			s.serve(w, r, m, rest)
			return
		}
	}
	logical.RespondError(w, http.StatusNotFound, fmt.Errorf("no handler for route %q. route entry not found.", path))
}

func (s *server) serve(w http.ResponseWriter, r *http.Request, m mount, path string) {
	req := &logical.Request{ID: "1", Path: path, Storage: m.storage, ClientToken: token, Data: map[string]any{}}
	for k, v := range r.URL.Query() {
		req.Data[k] = v[0]
	}
	if r.ContentLength != 0 {
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 32<<20))
		d.UseNumber()
		if err := d.Decode(&req.Data); err != nil {
			logical.RespondError(w, http.StatusBadRequest, fmt.Errorf("failed to parse JSON input: %w", err))
			return
		}
	}
	switch {
	case r.Method == "LIST", r.Method == "GET" && r.URL.Query().Get("list") == "true":
		req.Operation = logical.ListOperation
	case r.Method == "GET":
		req.Operation = logical.ReadOperation
	case r.Method == "DELETE":
		req.Operation = logical.DeleteOperation
	case r.Method == "PATCH":
		req.Operation = logical.PatchOperation
	case r.Method == "PUT", r.Method == "POST":
		req.Operation = logical.CreateOperation
		has, exists, err := m.backend.HandleExistenceCheck(r.Context(), req)
		if err != nil {
			logical.RespondError(w, http.StatusInternalServerError, err)
			return
		}
		if !has || exists {
			req.Operation = logical.UpdateOperation
		}
	default:
		logical.RespondError(w, http.StatusMethodNotAllowed, nil)
		return
	}
	resp, err := m.backend.HandleRequest(r.Context(), req)
	if status, err := logical.RespondErrorCommon(req, resp, err); err != nil || status != 0 {
		logical.RespondError(w, status, err)
		return
	}
	if resp == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if code, ok := resp.Data[logical.HTTPStatusCode].(int); ok { // an answer with its own status, such as a deleted secret's
		body, _ := resp.Data[logical.HTTPRawBody].(string)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		io.WriteString(w, body)
		return
	}
	answer(w, resp.Data, resp.Warnings)
}

func answer(w http.ResponseWriter, data map[string]any, warnings []string) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{
		"request_id": "1", "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": data, "wrap_info": nil, "warnings": warnings, "auth": nil,
	})
}
