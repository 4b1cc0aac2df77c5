//go:build kms_cloud

package kms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"

	"github.com/tallystick/tallystick/keys"
)

// AWS makes signers of the keys of AWS KMS that references awskms:KEY name, of the spec ECC_NIST_P256 with the usage
// SIGN_VERIFY. Such a key has no versions. An alias can be turned to another key: then no signature comes out, since the
// public key is pinned. Whoever asks needs the rights kms:GetPublicKey, kms:DescribeKey and kms:Sign.
//
// Who asks is said by the environment, as AWS has it for programs on its machines: AWS_ACCESS_KEY_ID and so on, a web
// identity, or the role of the container or machine. The files under ~/.aws are not read, for they can name a
// program to run.
type AWS struct {
	// Region is that of keys that are not named by ARN, which has its own; "" leaves it to the environment.
	Region string

	// Timeout is how long one signature may take with all tries; 0 means DefaultTimeout.
	Timeout time.Duration

	// LookupEnv finds a variable in the environment of this process, as os.LookupEnv does.
	LookupEnv func(name string) (string, bool)

	// A test's own service, which is HOST:PORT, and how to reach it.
	endpoint string
	options  []func(*config.LoadOptions) error
}

var _ keys.Provider = AWS{}

// Signer pins the key that ref names, for the log called origin. See [keys.Provider].
func (p AWS) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	if ref.Scheme != keys.SchemeAWS {
		return nil, fmt.Errorf("keys/kms: %s is no key of AWS", ref)
	}
	if err := checkEnv(p.LookupEnv, "AWS_TLS_INSECURE_SKIP_VERIFY", "sigstore does not verify whom it talks to", "", "0"); err != nil {
		return nil, err
	}
	region := p.Region
	if arn := strings.Split(ref.Path, ":"); arn[0] == "arn" && len(arn) > 3 {
		region = arn[3]
	}
	opts := append([]func(*config.LoadOptions) error{
		config.WithRegion(region), config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}),
	}, p.options...)
	return connect(ctx, ref, origin, vkey, p.Timeout, awsKind, func(ctx context.Context, id string) (signature.SignerVerifier, error) {
		sv, err := aws.LoadSignerVerifier(ctx, aws.ReferenceScheme+p.endpoint+"/"+id, opts...)
		if err != nil {
			return nil, err
		}
		return sv, nil
	})
}

// awsKind reads the errors of the API's actions GetPublicKey, DescribeKey and Sign.
func awsKind(err error) error {
	var e smithy.APIError
	if !errors.As(err, &e) {
		return nil
	}
	switch e.ErrorCode() {
	case "NotFoundException", "DisabledException", "KMSInvalidStateException", "InvalidKeyUsageException":
		return keys.ErrGone
	case "AccessDeniedException", "ExpiredTokenException", "InvalidSignatureException", "MissingAuthenticationTokenException", "UnrecognizedClientException":
		return keys.ErrDenied
	}
	return nil
}
