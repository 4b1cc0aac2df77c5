//go:build !unix

package bench

import "time"

func processor() time.Duration { return 0 }
