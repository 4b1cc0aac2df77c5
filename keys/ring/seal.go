package ring

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"reflect"
	"sync"
)

// sealedSize is the length of a key of keySize bytes once sealed: a nonce of 12 bytes, the key, a tag of 16.
const sealedSize = 12 + keySize + 16

// errDropped: the key was dropped from memory between being looked up and being used. Look it up again.
var errDropped = errors.New("keys/ring: key was dropped from memory")

// A seal is AES-256-GCM under one key, with random nonces written before the ciphertext, until it is dropped. A drop
// waits for whoever is using it.
type seal struct {
	mu   sync.RWMutex
	aead cipher.AEAD // guarded by mu, nil once dropped
}

// newSeal clears key.
func newSeal(key *[keySize]byte) *seal {
	defer clear(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // no length but 32 is possible
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size of GCM
	}
	wipe(block) // the AEAD made a copy
	return &seal{aead: aead}
}

// seal appends the sealed form of b to dst. The only error is errDropped.
func (s *seal) seal(dst, b, aad []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.aead == nil {
		return nil, errDropped
	}
	return s.aead.Seal(dst, nil, b, aad), nil
}

// open appends what is sealed to dst. The errors are errDropped, or that it was not sealed by this key and with this
// associated data.
func (s *seal) open(dst, sealed, aad []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.aead == nil {
		return nil, errDropped
	}
	return s.aead.Open(dst, nil, sealed, aad)
}

// drop forgets the key.
func (s *seal) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aead != nil {
		wipe(s.aead)
		s.aead = nil
	}
}

// wipe zeroes the round keys in a cipher of the standard library, which has no way of its own to. Where the library is
// built otherwise than in the Go this was written with, it does nothing, and a test says so.
func wipe(c any) {
	v := reflect.ValueOf(c)
	for v.Kind() == reflect.Struct && v.NumField() == 1 {
		v = v.Field(0)
	}
	if v.Kind() == reflect.Pointer && !v.IsNil() && v.Elem().CanSet() {
		v.Elem().SetZero()
	}
}
