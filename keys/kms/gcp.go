//go:build kms_cloud

package kms

import (
	"context"
	"fmt"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tallystick/tallystick/keys"
)

// GCP makes signers of the versions of keys of Google Cloud KMS that references gcpkms:… name, of the algorithm
// EC_SIGN_P256_SHA256. Whoever asks needs the rights cloudkms.cryptoKeys.get, cloudkms.cryptoKeyVersions.get, .viewPublicKey
// and .useToSign.
//
// Who asks is said by the environment, as Google has it: the file that GOOGLE_APPLICATION_CREDENTIALS names, the one that
// gcloud keeps, or the service account of the machine. Programs that such files name are not run, for which
// GOOGLE_API_USE_CLIENT_CERTIFICATE must be false.
type GCP struct {
	// Timeout is how long one signature may take with all tries; 0 means DefaultTimeout.
	Timeout time.Duration

	// LookupEnv finds a variable in the environment of this process, as os.LookupEnv does.
	LookupEnv func(name string) (string, bool)

	options []option.ClientOption // how to reach a test's own service
}

var _ keys.Provider = GCP{}

// Signer pins the key that ref names, for the log called origin. See [keys.Provider].
func (p GCP) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	if ref.Scheme != keys.SchemeGCP {
		return nil, fmt.Errorf("keys/kms: %s is no key of Google", ref)
	}
	if err := checkEnv(p.LookupEnv, "GOOGLE_API_USE_CLIENT_CERTIFICATE", "Google's library runs the programs that certificate_config.json and ~/.secureConnect name", "false"); err != nil {
		return nil, err
	}
	if err := checkEnv(p.LookupEnv, "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "Google's library runs the program that a file of credentials names", "", "0"); err != nil {
		return nil, err
	}
	return connect(ctx, ref, origin, vkey, p.Timeout, gcpKind, func(ctx context.Context, id string) (signature.SignerVerifier, error) {
		sv, err := gcp.LoadSignerVerifier(ctx, gcp.ReferenceScheme+id, p.options...)
		if err != nil {
			return nil, err
		}
		return sv, nil
	})
}

// gcpKind reads the errors of the API's methods GetCryptoKey, GetCryptoKeyVersion, GetPublicKey and AsymmetricSign.
func gcpKind(err error) error {
	switch status.Code(err) {
	case codes.NotFound, codes.FailedPrecondition:
		return keys.ErrGone
	case codes.PermissionDenied, codes.Unauthenticated:
		return keys.ErrDenied
	}
	return nil
}
