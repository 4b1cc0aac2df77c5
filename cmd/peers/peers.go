// Package peers holds what lies beside tally for others to read against code that is theirs: the rules and the dashboard against
// Prometheus's own parser and the types that Grafana generates from its schemas.
package peers
