package tlog

import (
	"fmt"

	"filippo.io/mldsa"
)

// VerifyMLDSA is the check below every ML-DSA-44 verifier, for messages that are no checkpoints.
func VerifyMLDSA(pub, msg, sig []byte) error {
	if len(pub) != keySize(algMLDSA44) || len(sig) != signatureSize(algMLDSA44) {
		return fmt.Errorf("tlog: a key of %d bytes or a signature of %d", len(pub), len(sig))
	}
	p, err := mldsa.NewPublicKey(mldsa.MLDSA44(), pub)
	if err != nil {
		return err
	}
	return verifyMLDSA(p, msg, sig)
}
