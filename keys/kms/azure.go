//go:build kms_cloud

package kms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"

	"github.com/tallystick/tallystick/keys"
)

// Azure makes signers of the versions of keys of Azure Key Vault that references azurekms:… name, of the type EC or
// EC-HSM with the curve P-256. Whoever asks needs the rights to get keys and to sign.
//
// Who asks is said by the environment, as Azure has it: AZURE_CLIENT_ID and so on, a workload identity, or the
// managed identity of the machine. AZURE_TOKEN_CREDENTIALS must say which, or be prod for any of the three; what else
// Azure's library would try runs az, azd or PowerShell.
type Azure struct {
	// Timeout is how long one signature may take with all tries; 0 means DefaultTimeout.
	Timeout time.Duration

	// LookupEnv finds a variable in the environment of this process, as os.LookupEnv does.
	LookupEnv func(name string) (string, bool)
}

var _ keys.Provider = Azure{}

// Signer pins the key that ref names, for the log called origin. See [keys.Provider].
func (p Azure) Signer(ctx context.Context, ref keys.Reference, origin, vkey string) (*keys.Signer, error) {
	if ref.Scheme != keys.SchemeAzure {
		return nil, fmt.Errorf("keys/kms: %s is no key of Azure", ref)
	}
	if err := checkEnv(p.LookupEnv, "AZURE_TOKEN_CREDENTIALS", "Azure's library runs az, azd or PowerShell", "prod", "EnvironmentCredential", "WorkloadIdentityCredential", "ManagedIdentityCredential"); err != nil {
		return nil, err
	}
	return connect(ctx, ref, origin, vkey, p.Timeout, azureKind, func(ctx context.Context, id string) (signature.SignerVerifier, error) {
		sv, err := azure.LoadSignerVerifier(ctx, azure.ReferenceScheme+id)
		if err != nil {
			return nil, err
		}
		return sv, nil
	})
}

// azureKind reads the errors of the API's operations GetKey and Sign, and those of getting a token.
func azureKind(err error) error {
	if failed := new(azidentity.AuthenticationFailedError); errors.As(err, &failed) {
		return keys.ErrDenied
	}
	var e *azcore.ResponseError
	if !errors.As(err, &e) {
		return nil
	}
	switch {
	case e.StatusCode == http.StatusNotFound, e.StatusCode == http.StatusForbidden && strings.Contains(e.Error(), "KeyDisabled"):
		return keys.ErrGone
	case e.StatusCode == http.StatusForbidden, e.StatusCode == http.StatusUnauthorized:
		return keys.ErrDenied
	}
	return nil
}
