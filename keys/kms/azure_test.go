//go:build kms_cloud

package kms

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms/azure"

	"github.com/tallystick/tallystick/keys"
)

const (
	azureHost    = "tally.vault.azure.net"
	azureVersion = "0123456789abcdef0123456789abcdef"
	azureSecret  = "eyJ0eXAi-a-token-of-tests"
)

// azureService speaks the REST protocol of Azure Key Vault, its challenge for a token included.
func azureService(t *testing.T, s *service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // its client has gone
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		refuse := func(code int, kind, inner string) {
			w.WriteHeader(code)
			fmt.Fprintf(w, "{\n  \"error\": {\"code\":%q,\"message\":\"a message on\\ntwo lines\",\"innererror\":{\"code\":%q}}\n}", kind, inner)
		}
		if r.Host != azureHost || r.URL.Query().Get("api-version") == "" {
			t.Errorf("%s %s %s", r.Method, r.Host, r.URL)
		}
		if r.Header.Get("Authorization") != "Bearer "+azureSecret {
			w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"`)
			refuse(http.StatusUnauthorized, "Unauthorized", "")
			return
		}
		fault := s.ask(r.Method + " " + r.URL.Path)
		kid := "https://" + azureHost + "/keys/log/" + azureVersion
		switch fault {
		case "KeyNotFound":
			refuse(http.StatusNotFound, "KeyNotFound", "")
			return
		case "KeyDisabled":
			refuse(http.StatusForbidden, "Forbidden", "KeyDisabled")
			return
		case "ForbiddenByPolicy":
			refuse(http.StatusForbidden, "Forbidden", "ForbiddenByPolicy")
			return
		case "BadParameter":
			refuse(http.StatusBadRequest, "BadParameter", "")
			return
		case "500":
			refuse(http.StatusInternalServerError, "InternalServerError", "")
			return
		case "no JSON":
			io.WriteString(w, "<html>")
			return
		case "nothing":
			io.WriteString(w, "{}")
			return
		}
		url64 := base64.RawURLEncoding.EncodeToString
		switch {
		case r.Method == http.MethodGet && r.URL.Path == "/keys/log/"+azureVersion:
			s.mu.Lock()
			pub := s.public.(*ecdsa.PublicKey)
			s.mu.Unlock()
			point, err := pub.Bytes()
			if err != nil {
				t.Error(err)
			}
			n := (len(point) - 1) / 2
			jwk := map[string]any{"kid": kid, "kty": "EC-HSM", "key_ops": []string{"sign", "verify"}, "crv": pub.Params().Name, "x": url64(point[1 : 1+n]), "y": url64(point[1+n:])}
			switch fault {
			case "no kty":
				delete(jwk, "kty")
			case "another curve":
				jwk["crv"] = "P-256K"
			case "not on the curve":
				jwk["x"] = url64(make([]byte, n))
			}
			json.NewEncoder(w).Encode(map[string]any{"key": jwk, "attributes": map[string]any{"enabled": true}})
		case r.Method == http.MethodPost && r.URL.Path == "/keys/log/"+azureVersion+"/sign":
			var in struct{ Alg, Value string }
			if err := json.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
			digest, err := base64.RawURLEncoding.DecodeString(in.Value)
			if err != nil || in.Alg != "ES256" || len(digest) != 32 {
				refuse(http.StatusBadRequest, "BadParameter", "")
				return
			}
			var rs struct{ R, S *big.Int }
			if _, err := asn1.Unmarshal(s.signature(t, digest), &rs); err != nil {
				t.Error(err)
			}
			sig := rs.S.FillBytes(make([]byte, 32))
			sig = append(rs.R.FillBytes(make([]byte, 32)), sig...)
			switch fault {
			case "a byte less":
				sig = sig[:63]
			case "no value":
				sig = nil
			}
			json.NewEncoder(w).Encode(map[string]string{"kid": kid, "value": url64(sig)})
		default:
			refuse(http.StatusNotFound, "NotFound", "")
		}
	})
}

// toAzure has this process reach a test's service under the name that the real one has, and nothing else of Azure: by a proxy,
// a certificate authority and a managed identity of the test's own. What a process knows of proxies and authorities
// it learns once, so this is for a process of its own.
func toAzure(t *testing.T, s *service) {
	ca, leaf := certificates(t)
	vault := httptest.NewUnstartedServer(azureService(t, s))
	vault.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	vault.StartTLS()
	t.Cleanup(vault.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != azureHost+":443" {
			t.Errorf("%s %s was asked for", r.Method, r.Host)
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		up, err := net.Dial("tcp", vault.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		defer up.Close()
		w.WriteHeader(http.StatusOK)
		down, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer down.Close()
		go func() { io.Copy(up, down); up.Close() }()
		io.Copy(down, up)
	}))
	t.Cleanup(proxy.Close)
	identity := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-IDENTITY-HEADER") != azureSecret || r.URL.Query().Get("resource") != "https://vault.azure.net" {
			http.Error(w, `{"statusCode":401}`, http.StatusUnauthorized)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{
			"access_token": azureSecret, "expires_on": fmt.Sprint(time.Now().Add(time.Hour).Unix()), "resource": "https://vault.azure.net", "token_type": "Bearer",
		})
	}))
	t.Cleanup(identity.Close)
	for name, v := range map[string]string{
		"HTTPS_PROXY": proxy.URL, "https_proxy": "", "HTTP_PROXY": "", "http_proxy": "", "NO_PROXY": "", "no_proxy": "",
		"SSL_CERT_FILE": ca, "SSL_CERT_DIR": filepath.Dir(ca),
		"IDENTITY_ENDPOINT": identity.URL + "/token", "IDENTITY_HEADER": azureSecret, "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
	} {
		t.Setenv(name, v)
	}
}

// certificates makes an authority and what it vouches for: the file of the one and the key of the other.
func certificates(t *testing.T) (file string, leaf tls.Certificate) {
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority of tests"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	caKey, key := newECDSA(t, elliptic.P256()), newECDSA(t, elliptic.P256())
	of := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{azureHost}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, of, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// alone runs the test that calls it in a process of its own, and says whether this is it.
func alone(t *testing.T) bool {
	const mark = "TALLYSTICK_TEST_ALONE"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestAzure(t *testing.T) {
	if !alone(t) {
		return
	}
	key := newECDSA(t, elliptic.P256())
	s := &service{key: key, public: key.Public()}
	toAzure(t, s)
	p := func(timeout time.Duration) keys.Provider {
		if timeout == 0 {
			timeout = 5 * time.Second // Azure's library tries for a long time
		}
		return Azure{Timeout: timeout, LookupEnv: os.LookupEnv}
	}
	ref, err := keys.ParseReference("azurekms:" + azureHost + "/log?version=" + azureVersion)
	if err != nil {
		t.Fatal(err)
	}
	story(t, s, p, ref, map[string]error{
		"KeyNotFound": keys.ErrGone, "KeyDisabled": keys.ErrGone, "ForbiddenByPolicy": keys.ErrDenied, "BadParameter": errAny, "500": errAny,
	}, []string{"no JSON", "nothing", "no kty", "another curve", "not on the curve", "a byte less", "no value"}, azureSecret)
	for _, call := range s.called() {
		if !strings.Contains(call, "/keys/log/"+azureVersion) {
			t.Errorf("asked for %s", call)
		}
	}
	s.set(func(s *service) { s.public = newECDSA(t, elliptic.P384()).Public() })
	if signer, err := p(0).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), "a key on P-384") {
		t.Errorf("P-384: %s, %v", signer, err)
	}
	s.called()
	ref.Version = ""
	if _, err := p(0).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), "add ?version=") || len(s.called()) > 0 {
		t.Errorf("without a version: %v", err)
	}
}

// Azure's library runs az for credentials, unless told not to.
func TestAzureRunsNothing(t *testing.T) {
	if !alone(t) {
		return
	}
	toAzure(t, &service{})
	sprung := trap(t, "az", "azd", "pwsh")
	ref := keys.Reference{Scheme: keys.SchemeAzure, Path: azureHost + "/log", Version: azureVersion}
	for _, env := range []string{"", "dev", "AzureCLICredential", "azurecliCredential", "anything"} {
		t.Setenv("AZURE_TOKEN_CREDENTIALS", env)
		if _, err := (Azure{LookupEnv: os.LookupEnv}).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), "AZURE_TOKEN_CREDENTIALS must be one of prod,") {
			t.Errorf("%q: %v", env, err)
		}
	}
	if sprung() {
		t.Error("the program was run")
	}
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "AzureCLICredential")
	sv, err := azure.LoadSignerVerifier(t.Context(), "azurekms://"+ref.Path+"/"+ref.Version)
	if err == nil {
		_, err = sv.PublicKey()
	}
	if !sprung() {
		t.Errorf("the trap does not spring: %v", err)
	}
}
