//go:build kms_cloud

package assemble

import (
	"github.com/tallystick/tallystick/keys"
	"github.com/tallystick/tallystick/keys/kms"
)

// addClouds adds the key services of AWS, Google and Azure.
func addClouds(ps keys.Providers, lookup func(string) (string, bool)) {
	ps[keys.SchemeAWS] = kms.AWS{LookupEnv: lookup}
	ps[keys.SchemeGCP] = kms.GCP{LookupEnv: lookup}
	ps[keys.SchemeAzure] = kms.Azure{LookupEnv: lookup}
}
