// Package peers holds the tests that need the official SDKs of OpenAI and Anthropic: what real clients make of an
// answer, an error, and a stream that breaks off. It is a module of its own, so that nobody who uses the gateway
// depends on them, and it exports nothing.
package peers
