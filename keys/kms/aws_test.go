//go:build kms_cloud

package kms

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	sigaws "github.com/sigstore/sigstore/pkg/signature/kms/aws"

	"github.com/tallystick/tallystick/keys"
)

const (
	awsARN    = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	awsSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

// awsService speaks the JSON protocol (AWS JSON 1.1, targets TrentService.…) of AWS KMS over TLS, and verifies the requests'
// signatures (SigV4) as the real one does.
func awsService(t *testing.T, s *service) *httptest.Server {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // its client has gone
		}
		action, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
		if r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" || !ok {
			t.Errorf("%s %s, %s, %s", r.Method, r.URL, r.Header.Get("Content-Type"), r.Header.Get("X-Amz-Target"))
		}
		var in struct {
			KeyId, MessageType, SigningAlgorithm string
			Message                              []byte
		}
		if err := json.Unmarshal(body, &in); err != nil {
			t.Error(err)
		}
		fault := s.ask(action + " " + in.KeyId)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		refuse := func(code int, kind, message string) {
			w.WriteHeader(code)
			json.NewEncoder(w).Encode(map[string]string{"__type": kind, "message": message})
		}
		if why := awsSigned(r, body); why != "" {
			refuse(http.StatusForbidden, "InvalidSignatureException", why)
			return
		}
		answer := map[string]any{"KeyId": awsARN}
		meta := map[string]any{
			"KeyId": awsARN[strings.Index(awsARN, "/")+1:], "Arn": awsARN, "KeySpec": "ECC_NIST_P256", "CustomerMasterKeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY",
			"Enabled": true, "KeyState": "Enabled", "Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "SigningAlgorithms": []string{"ECDSA_SHA_256"},
		}
		switch fault {
		case "":
		case "no algorithms":
			meta["SigningAlgorithms"] = []string{}
		case "another algorithm":
			meta["SigningAlgorithms"] = []string{"ECDSA_SHA_512"}
		case "Ed25519":
			meta["SigningAlgorithms"] = []string{"ED25519_SHA_512", "ED25519_PH_SHA_512"}
		case "no JSON":
			io.WriteString(w, "<html>")
			return
		case "nothing":
			io.WriteString(w, "{}")
			return
		case "500":
			refuse(http.StatusInternalServerError, "KMSInternalException", "try again")
			return
		default:
			refuse(http.StatusBadRequest, fault, "a message on\ntwo lines")
			return
		}
		switch action {
		case "GetPublicKey":
			answer["PublicKey"], answer["KeySpec"], answer["KeyUsage"], answer["SigningAlgorithms"] = s.spki(t), meta["KeySpec"], meta["KeyUsage"], meta["SigningAlgorithms"]
		case "DescribeKey":
			answer = map[string]any{"KeyMetadata": meta}
		case "Sign":
			if in.MessageType != "DIGEST" || len(in.Message) != 32 {
				refuse(http.StatusBadRequest, "ValidationException", "Digest is invalid length for algorithm "+in.SigningAlgorithm)
				return
			}
			if in.SigningAlgorithm != "ECDSA_SHA_256" {
				refuse(http.StatusBadRequest, "InvalidKeyUsageException", "not with this key")
				return
			}
			answer["Signature"], answer["SigningAlgorithm"] = s.signature(t, in.Message), in.SigningAlgorithm
		default:
			t.Errorf("%s was asked for", action)
		}
		json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// awsSigned says what is wrong with a request's signature by the account of the test.
func awsSigned(r *http.Request, body []byte) string {
	auth := r.Header.Get("Authorization")
	_, rest, _ := strings.Cut(auth, "SignedHeaders=")
	signed, _, _ := strings.Cut(rest, ",")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return "no time: " + err.Error()
	}
	again, err := http.NewRequest(r.Method, "https://"+r.Host+"/", nil)
	if err != nil {
		return err.Error()
	}
	for h := range strings.SplitSeq(signed, ";") {
		if v := r.Header.Values(h); len(v) > 0 {
			again.Header[http.CanonicalHeaderKey(h)] = v
		}
	}
	again.ContentLength = r.ContentLength
	account := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: awsSecret}
	if err := v4.NewSigner().SignHTTP(r.Context(), account, again, fmt.Sprintf("%x", sha256.Sum256(body)), "kms", "eu-west-1", at); err != nil {
		return err.Error()
	}
	if want := again.Header.Get("Authorization"); auth != want {
		return "The request signature we calculated does not match"
	}
	return ""
}

// toAWS is a provider that reaches the test's service, and nothing else of AWS.
func toAWS(t *testing.T, srv *httptest.Server) func(time.Duration) keys.Provider {
	for name, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": awsSecret, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_REGION": "us-east-1", "AWS_PROFILE": "", "AWS_CA_BUNDLE": "", "AWS_SESSION_TOKEN": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_KMS": "", "AWS_MAX_ATTEMPTS": "2",
	} {
		t.Setenv(name, v)
	}
	return func(timeout time.Duration) keys.Provider {
		return AWS{
			Timeout: timeout, LookupEnv: os.LookupEnv, endpoint: srv.Listener.Addr().String(),
			options: []func(*config.LoadOptions) error{config.WithHTTPClient(srv.Client())},
		}
	}
}

func TestAWS(t *testing.T) {
	key := newECDSA(t, elliptic.P256())
	s := &service{key: key, public: key.Public()}
	srv := awsService(t, s)
	p := toAWS(t, srv)
	for _, text := range []string{"awskms:" + awsARN, "awskms:1234abcd-12ab-34cd-56ef-1234567890ab", "awskms:alias/log"} {
		ref, err := keys.ParseReference(text)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(ref.Path, "arn:") {
			q := p(0).(AWS)
			q.Region = "eu-west-1" // the signature says which
			signer, err := q.Signer(t.Context(), ref, origin, "")
			if err != nil {
				t.Fatal(err)
			}
			wantSigns(t, signer)
			continue
		}
		story(t, s, p, ref, map[string]error{
			"NotFoundException": keys.ErrGone, "DisabledException": keys.ErrGone, "KMSInvalidStateException": keys.ErrGone,
			"AccessDeniedException": keys.ErrDenied, "ExpiredTokenException": keys.ErrDenied, "UnrecognizedClientException": keys.ErrDenied,
			"ThrottlingException": errAny, "500": errAny, "no JSON": errAny,
		}, []string{"no algorithms", "another algorithm", "Ed25519", "nothing"}, awsSecret)
		for _, call := range s.called() {
			if _, key, _ := strings.Cut(call, " "); key != ref.Path {
				t.Errorf("asked for %s", call)
			}
		}
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", awsSecret+"x")
	ref := keys.Reference{Scheme: keys.SchemeAWS, Path: awsARN}
	if _, err := p(0).Signer(t.Context(), ref, origin, ""); !errors.Is(err, keys.ErrDenied) || strings.Contains(err.Error(), awsSecret) {
		t.Errorf("with another secret: %v", err)
	}
	t.Setenv("AWS_TLS_INSECURE_SKIP_VERIFY", "1")
	if _, err := p(0).Signer(t.Context(), ref, origin, ""); err == nil || !strings.Contains(err.Error(), "AWS_TLS_INSECURE_SKIP_VERIFY must not be set") {
		t.Error(err)
	}
	for _, k := range []crypto.PublicKey{newECDSA(t, elliptic.P384()).Public(), newEd25519(t).Public()} {
		s.set(func(s *service) { s.public = k })
		t.Setenv("AWS_TLS_INSECURE_SKIP_VERIFY", "0")
		t.Setenv("AWS_SECRET_ACCESS_KEY", awsSecret)
		if signer, err := p(0).Signer(t.Context(), ref, origin, ""); err == nil {
			if _, err := signer.Sign(checkpoint.Text()); !errors.Is(err, keys.ErrNotPinned) {
				t.Errorf("a key of type %T: %v", k, err)
			}
		}
	}
}

// A program that a file in ~/.aws names is not run, nor is that file read otherwise.
func TestAWSRunsNothing(t *testing.T) {
	key := newECDSA(t, elliptic.P256())
	srv := awsService(t, &service{key: key, public: key.Public()})
	p := toAWS(t, srv)
	sprung := trap(t, "give-credentials")
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "[default]\ncredential_process = give-credentials\n"
	for _, name := range []string{"config", "credentials"} {
		if err := os.WriteFile(filepath.Join(home, ".aws", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(map[string]string{"config": "AWS_CONFIG_FILE", "credentials": "AWS_SHARED_CREDENTIALS_FILE"}[name], filepath.Join(home, ".aws", name))
	}
	t.Setenv("HOME", home)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	ref := keys.Reference{Scheme: keys.SchemeAWS, Path: awsARN}
	if s, err := p(5*time.Second).Signer(t.Context(), ref, origin, ""); err == nil {
		t.Errorf("a signer without credentials: %s", s)
	}
	if sprung() {
		t.Error("the program was run")
	}
	// Without our word sigstore runs it: the trap springs.
	sv, err := sigaws.LoadSignerVerifier(t.Context(), "awskms://"+srv.Listener.Addr().String()+"/"+awsARN, config.WithHTTPClient(srv.Client()))
	if err == nil {
		_, err = sv.PublicKey()
	}
	if !sprung() {
		t.Errorf("the trap does not spring: %v", err)
	}
}
