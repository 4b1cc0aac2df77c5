package otel

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/tallystick/tallystick/gateway"
)

// The names of attributes. What begins with tallystick is our own.
const (
	httpMethod   attribute.Key = "http.request.method"
	httpRoute    attribute.Key = "http.route"
	httpStatus   attribute.Key = "http.response.status_code"
	requestSize  attribute.Key = "http.request.body.size"
	responseSize attribute.Key = "http.response.body.size"
	errorType    attribute.Key = "error.type"
	serverHost   attribute.Key = "server.address"
	serverPort   attribute.Key = "server.port"

	operationName attribute.Key = "gen_ai.operation.name"
	providerName  attribute.Key = "gen_ai.provider.name"
	requestModel  attribute.Key = "gen_ai.request.model"
	requestStream attribute.Key = "gen_ai.request.stream"
	maxTokens     attribute.Key = "gen_ai.request.max_tokens"
	responseModel attribute.Key = "gen_ai.response.model"
	responseID    attribute.Key = "gen_ai.response.id"
	finishReasons attribute.Key = "gen_ai.response.finish_reasons"
	firstChunk    attribute.Key = "gen_ai.response.time_to_first_chunk"
	inputTokens   attribute.Key = "gen_ai.usage.input_tokens"
	outputTokens  attribute.Key = "gen_ai.usage.output_tokens"
	cacheRead     attribute.Key = "gen_ai.usage.cache_read.input_tokens"
	cacheCreation attribute.Key = "gen_ai.usage.cache_creation.input_tokens"

	session attribute.Key = "tallystick.session"
	route   attribute.Key = "tallystick.route"
	outcome attribute.Key = "tallystick.outcome"
	reason  attribute.Key = "tallystick.reason"
	verdict attribute.Key = "tallystick.verdict"
	rule    attribute.Key = "tallystick.rule"
)

// serverAttributes tell of what the caller asked of the gateway.
func serverAttributes(t *gateway.Trip) []attribute.KeyValue {
	out := []attribute.KeyValue{session.String(t.Session.String()), httpStatus.Int(t.Status), requestSize.Int64(t.RequestSize)}
	out = append(out, set(httpMethod, t.Method, httpRoute, t.Endpoint, route, t.Route, outcome, t.Outcome, reason, t.Reason, verdict, t.Verdict, rule, t.Rule)...)
	if t.Status >= 500 || t.Outcome == "truncated" {
		out = append(out, set(errorType, t.Error)...)
	}
	return out
}

// modelName is the name of the span of the call to the model.
func modelName(t *gateway.Trip) string {
	switch {
	case t.Operation == "":
		return t.Method
	case t.Model == "":
		return t.Operation
	}
	return t.Operation + " " + t.Model
}

// modelAttributes tell of what the gateway asked of the model.
func modelAttributes(t *gateway.Trip) []attribute.KeyValue {
	out := []attribute.KeyValue{session.String(t.Session.String()), serverPort.Int(t.Port), responseSize.Int64(t.AnswerSize)}
	out = append(out, set(httpMethod, t.Method, serverHost, t.Host, errorType, t.Error)...)
	if t.Answer.Status != 0 {
		out = append(out, httpStatus.Int(t.Answer.Status))
	}
	if t.Operation == "" {
		return out
	}
	out = append(out, set(operationName, t.Operation, providerName, t.Provider, requestModel, t.Model, responseModel, t.Answer.Model, responseID, t.Answer.ID)...)
	if t.Stream {
		out = append(out, requestStream.Bool(true))
		if !t.First.IsZero() {
			out = append(out, firstChunk.Float64(float64(t.First.Sub(t.Sent))/float64(time.Second)))
		}
	}
	if t.MaxTokens > 0 {
		out = append(out, maxTokens.Int64(t.MaxTokens))
	}
	if len(t.Answer.Finish) > 0 {
		out = append(out, finishReasons.StringSlice(t.Answer.Finish))
	}
	for _, n := range []struct {
		key attribute.Key
		n   int64
	}{{inputTokens, t.Answer.Input}, {outputTokens, t.Answer.Output}, {cacheRead, t.Answer.CacheRead}, {cacheCreation, t.Answer.CacheMade}} {
		if n.n >= 0 {
			out = append(out, n.key.Int64(n.n))
		}
	}
	return out
}
