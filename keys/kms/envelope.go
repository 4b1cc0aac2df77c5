package kms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tallystick/tallystick/keys"
)

// SignEnvelope returns payload in an envelope of DSSE 1.0.2 (https://github.com/secure-systems-lab/dsse), signed by each of
// the signers: their Ed25519 signature, or that of ECDSA with SHA-256 in DER, over PAE(payloadType, payload). It is what
// verify.CheckManifest reads when the payload is a bundle's manifest. A signer whose key is of type 0x06 signs no such
// thing. ctx ends the asking between two signers.
//
// There are no key ids: DSSE forbids to rely on them, and sigstore passes over signatures whose id is not one of its own, an
// SSH fingerprint. That is also why the envelope is written here and not by sigstore's package dsse: it brings an SSH
// library into every build.
func SignEnvelope(ctx context.Context, payloadType string, payload []byte, signers ...*keys.Signer) ([]byte, error) {
	if payloadType == "" || strings.ContainsFunc(payloadType, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("keys/kms: %.100q is not the type of a payload, such as application/vnd.example+json", payloadType)
	}
	if len(signers) == 0 {
		return nil, errors.New("keys/kms: no key to sign an envelope with")
	}
	type signed struct {
		Sig []byte `json:"sig"`
	}
	envelope := struct {
		Payload     []byte   `json:"payload"`
		PayloadType string   `json:"payloadType"`
		Signatures  []signed `json:"signatures"`
	}{append([]byte{}, payload...), payloadType, nil} // nil would be null
	msg := append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload)), payload...)
	for _, s := range signers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		sig, err := s.Sign(msg)
		if err != nil {
			return nil, fmt.Errorf("envelope: %w", err)
		}
		envelope.Signatures = append(envelope.Signatures, signed{sig})
	}
	return json.Marshal(envelope)
}
