// Package mask finds in texts what must not be written down, and puts in its place a mask that says of what kind it was.
//
// It changes records, never the traffic they tell of.
package mask
