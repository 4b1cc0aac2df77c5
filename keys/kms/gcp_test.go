//go:build kms_cloud

package kms

import (
	"context"
	"crypto/elliptic"
	"encoding/pem"
	"errors"
	"hash/crc32"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tallystick/tallystick/keys"
)

const (
	gcpKey    = "projects/p-1/locations/europe-west1/keyRings/r/cryptoKeys/log"
	gcpSecret = "ya29.a-token-of-tests"
)

// gcpService speaks Google's protocol, google.cloud.kms.v1 over gRPC, with checksums as the real one has them.
type gcpService struct {
	kmspb.UnimplementedKeyManagementServiceServer
	t *testing.T
	s *service
}

func (g *gcpService) ask(ctx context.Context, call string) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if auth := md.Get("authorization"); len(auth) != 1 || auth[0] != "Bearer "+gcpSecret {
		return "", status.Error(codes.Unauthenticated, "no such token")
	}
	fault := g.s.ask(call)
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		if fault == c.String() {
			return "", status.Error(c, "a message on\ntwo lines")
		}
	}
	return fault, nil
}

func (g *gcpService) GetCryptoKey(ctx context.Context, in *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	fault, err := g.ask(ctx, "GetCryptoKey "+in.Name)
	if err != nil {
		return nil, err
	}
	k := &kmspb.CryptoKey{Name: in.Name, Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN}
	if fault == "another purpose" {
		k.Purpose = kmspb.CryptoKey_ENCRYPT_DECRYPT
	}
	return k, nil
}

func (g *gcpService) GetCryptoKeyVersion(ctx context.Context, in *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	fault, err := g.ask(ctx, "GetCryptoKeyVersion "+in.Name)
	if err != nil {
		return nil, err
	}
	v := &kmspb.CryptoKeyVersion{Name: in.Name, State: kmspb.CryptoKeyVersion_ENABLED, Algorithm: kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256}
	switch fault {
	case "Ed25519":
		v.Algorithm = kmspb.CryptoKeyVersion_EC_SIGN_ED25519
	case "P-384":
		v.Algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384
	case "another version":
		v.Name = strings.TrimSuffix(v.Name, "3") + "4"
	case "RSA":
		v.Algorithm = kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256
	}
	return v, nil
}

func (g *gcpService) GetPublicKey(ctx context.Context, in *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	fault, err := g.ask(ctx, "GetPublicKey "+in.Name)
	if err != nil {
		return nil, err
	}
	k := &kmspb.PublicKey{Name: in.Name, Algorithm: kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256, Pem: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: g.s.spki(g.t)}))}
	if fault == "no PEM" {
		k.Pem = ""
	}
	return k, nil
}

func (g *gcpService) AsymmetricSign(ctx context.Context, in *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	fault, err := g.ask(ctx, "AsymmetricSign "+in.Name)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(in.Name, "/cryptoKeyVersions/3") {
		return nil, status.Error(codes.NotFound, "no such version")
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	digest := in.GetDigest().GetSha256()
	if digest == nil || in.DigestCrc32C.GetValue() != int64(crc32.Checksum(digest, castagnoli)) {
		return nil, status.Error(codes.InvalidArgument, "not a SHA-256 digest with its checksum")
	}
	sig := g.s.signature(g.t, digest)
	out := &kmspb.AsymmetricSignResponse{Name: in.Name, Signature: sig, VerifiedDigestCrc32C: true, SignatureCrc32C: wrapperspb.Int64(int64(crc32.Checksum(sig, castagnoli)))}
	switch fault {
	case "no checksum":
		out.SignatureCrc32C = nil
	case "nothing":
		out = &kmspb.AsymmetricSignResponse{}
	case "a bit flipped":
		out.Signature[9] ^= 1
	case "the digest's checksum unverified":
		out.VerifiedDigestCrc32C = false
	}
	return out, nil
}

type gcpToken struct{}

func (gcpToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + gcpSecret}, nil
}

func (gcpToken) RequireTransportSecurity() bool { return false }

// toGCP is a provider that reaches a test's service, and nothing else of Google.
func toGCP(t *testing.T, s *service) func(time.Duration) keys.Provider {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	kmspb.RegisterKeyManagementServiceServer(srv, &gcpService{t: t, s: s})
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	t.Setenv("GOOGLE_API_USE_CLIENT_CERTIFICATE", "false")
	t.Setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "")
	return func(timeout time.Duration) keys.Provider {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(gcpToken{}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return GCP{Timeout: timeout, LookupEnv: os.LookupEnv, options: []option.ClientOption{option.WithGRPCConn(conn)}}
	}
}

func TestGCP(t *testing.T) {
	key := newECDSA(t, elliptic.P256())
	s := &service{key: key, public: key.Public()}
	p := toGCP(t, s)
	ref, err := keys.ParseReference("gcpkms:" + gcpKey + "?version=3")
	if err != nil {
		t.Fatal(err)
	}
	// Unavailable is tried again until the time is over.
	short := func(timeout time.Duration) keys.Provider {
		if timeout == 0 {
			timeout = 5 * time.Second
		}
		return p(timeout)
	}
	story(t, s, short, ref, map[string]error{
		"NotFound": keys.ErrGone, "FailedPrecondition": keys.ErrGone, "PermissionDenied": keys.ErrDenied, "Unauthenticated": keys.ErrDenied,
		"Internal": errAny, "ResourceExhausted": errAny, "Unavailable": errAny,
	}, []string{"another purpose", "Ed25519", "P-384", "RSA", "another version", "no PEM", "no checksum", "nothing", "a bit flipped", "the digest's checksum unverified"}, gcpSecret)
	for _, call := range s.called() {
		if name, _ := strings.CutSuffix(call, "/cryptoKeyVersions/3"); !strings.HasSuffix(name, " "+gcpKey) && !strings.HasSuffix(call, "/4") {
			t.Errorf("asked for %s", call)
		}
	}
	// A service of its own: the story's hears on of what was given up and is tried again.
	quiet := &service{key: key, public: key.Public()}
	ref.Version = ""
	if _, err := toGCP(t, quiet)(0).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), "add ?version=") || len(quiet.called()) > 0 {
		t.Errorf("without a version: %v", err)
	}
	ref.Version = "3"
	for _, env := range []struct{ name, value, err string }{
		{"GOOGLE_API_USE_CLIENT_CERTIFICATE", "true", "must be false"}, {"GOOGLE_API_USE_CLIENT_CERTIFICATE", "", "must be false"},
		{"GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1", "must not be set"},
	} {
		t.Run(env.name, func(t *testing.T) {
			t.Setenv(env.name, env.value)
			if _, err := p(0).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), env.name+" "+env.err) {
				t.Error(err)
			}
		})
	}
}

// A program that a file of credentials names is not run.
func TestGCPRunsNothing(t *testing.T) {
	sprung := trap(t, "give-token")
	path := filepath.Join(t.TempDir(), "credentials.json")
	text := `{"type":"external_account","audience":"//iam.googleapis.com/x","subject_token_type":"urn:ietf:params:oauth:token-type:jwt",
		"token_url":"https://127.0.0.1:1/","credential_source":{"executable":{"command":"give-token"}}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
	t.Setenv("GOOGLE_API_USE_CLIENT_CERTIFICATE", "false")

	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&web.TLS.Certificates[0])))
	kmspb.RegisterKeyManagementServiceServer(srv, &gcpService{t: t, s: &service{}})
	go srv.Serve(l)
	defer srv.Stop()
	p := GCP{LookupEnv: os.LookupEnv, options: []option.ClientOption{
		option.WithEndpoint(l.Addr().String()),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(credentials.NewTLS(web.Client().Transport.(*http.Transport).TLSClientConfig))),
	}}
	ref := keys.Reference{Scheme: keys.SchemeGCP, Path: gcpKey, Version: "3"}
	for _, allow := range []string{"", "1"} {
		t.Setenv("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", allow)
		if s, err := p.Signer(t.Context(), ref, origin, ""); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without credentials: %s, %v", s, err)
		}
	}
	if sprung() {
		t.Error("the program was run")
	}
	// Told that the variable is not set, Google's library runs it: the trap springs.
	p.LookupEnv = func(name string) (string, bool) {
		return map[string]string{"GOOGLE_API_USE_CLIENT_CERTIFICATE": "false"}[name], true
	}
	if _, err := p.Signer(t.Context(), ref, origin, ""); err == nil || !sprung() {
		t.Errorf("the trap does not spring: %v", err)
	}
}
