package oidc

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/tallystick/tallystick/gateway"
)

// An entry is a token that was verified, by a key of one set. It is never changed.
type entry struct {
	principal *gateway.Principal
	until     time.Time // skew included
	bound     binding
	issuer    *issuer
	set       uint64 // the serial of the set of keys
}

// good says whether the entry still answers. Where the issuer's keys have changed since, the token is verified again.
func (e *entry) good(now time.Time) bool {
	if e == nil || !now.Before(e.until) {
		return false
	}
	set := e.issuer.known.Load()
	return set != nil && set.serial == e.set && now.Before(set.until)
}

// A cache remembers verified tokens by their SHA-256. It is bounded: when the young half is full it becomes the old one,
// and what stood in the old one and was not shown since is forgotten. Strangers put nothing in it.
type cache struct {
	half int

	mu         sync.RWMutex
	young, old map[[sha256.Size]byte]*entry
}

func newCache(size int) *cache {
	return &cache{half: max(size/2, 1), young: make(map[[sha256.Size]byte]*entry)}
}

// get returns what is remembered of a token, or nil.
func (c *cache) get(sum [sha256.Size]byte) *entry {
	c.mu.RLock()
	e, young := c.young[sum]
	if !young {
		e = c.old[sum]
	}
	c.mu.RUnlock()
	if e != nil && !young {
		c.put(sum, e)
	}
	return e
}

func (c *cache) put(sum [sha256.Size]byte, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.half && c.young[sum] == nil {
		c.young, c.old = make(map[[sha256.Size]byte]*entry, c.half/8), c.young
	}
	c.young[sum] = e
}
