package gatewaytest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// endingKind is where and how an answer stops short.
type endingKind uint8

const (
	toEnd    endingKind = iota // it does not
	cutting                    // /cut
	finning                    // /fin
	ending                     // /end
	failing                    // /error-mid
	stalling                   // /stall
)

// orders are the directives of one request.
type orders struct {
	say, endless, incomplete, failed, echoAuth, hang, ping bool

	size, count      int // bytes, deltas; 0: as it comes
	tool             string
	wait, slow, drip time.Duration
	status, flaky    int
	ending           endingKind
	at               int
	raw              string

	prompt string // what follows the directives
}

// parse reads the directives at the start of s on top of those there are, and leaves the rest in prompt. A
// directive whose argument makes no sense is a failure: a test that misspells a fault must not get an answer.
func (o *orders) parse(s string) error {
	for {
		rest := strings.TrimLeftFunc(s, unicode.IsSpace)
		word, after := cutWord(rest)
		arg, afterArg := cutWord(strings.TrimLeftFunc(after, unicode.IsSpace))
		var err error
		used := true // the argument
		switch word {
		case "/say":
			o.say, used = true, false
		case "/endless":
			o.endless, used = true, false
		case "/incomplete":
			o.incomplete, used = true, false
		case "/failed":
			o.failed, used = true, false
		case "/echo-auth":
			o.echoAuth, used = true, false
		case "/hang":
			o.hang, used = true, false
		case "/ping":
			o.ping, used = true, false
		case "/size":
			o.size, err = parseSize(arg)
		case "/events":
			o.count, err = parseCount(arg, 1, 1<<20)
		case "/tool":
			if o.tool = arg; arg == "" {
				err = fmt.Errorf("a tool's name is missing")
			}
		case "/wait":
			o.wait, err = time.ParseDuration(arg)
		case "/slow":
			o.slow, err = time.ParseDuration(arg)
		case "/drip":
			if o.drip, err = time.ParseDuration(arg); err != nil {
				o.drip, used, err = 2*time.Millisecond, false, nil
			}
		case "/error":
			o.status, err = parseCount(arg, 400, 599)
		case "/flaky":
			o.flaky, err = parseCount(arg, 1, 100)
		case "/cut":
			o.ending = cutting
			o.at, err = parseCount(arg, 0, 1<<30)
		case "/fin":
			o.ending = finning
			o.at, err = parseCount(arg, 0, 1<<30)
		case "/end":
			o.ending = ending
			o.at, err = parseCount(arg, 0, 1<<30)
		case "/error-mid":
			o.ending = failing
			o.at, err = parseCount(arg, 0, 1<<30)
		case "/stall":
			o.ending = stalling
			o.at, err = parseCount(arg, 0, 1<<30)
		case "/raw":
			o.raw = arg
			if _, ok := findFault(arg); !ok {
				err = fmt.Errorf("no such fault; Faults lists them")
			}
		default:
			o.prompt = rest
			return nil
		}
		if err != nil {
			return &failure{status: http.StatusBadRequest, message: fmt.Sprintf("Directive %s %s: %v", word, arg, err), code: "bad_directive"}
		}
		if s = after; used {
			s = afterArg
		}
	}
}

// cutWord splits s behind its first word.
func cutWord(s string) (word, rest string) {
	i := strings.IndexFunc(s, unicode.IsSpace)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func parseCount(s string, least, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("want a number from %d to %d", least, most)
	}
	return n, nil
}

// parseSize reads a number of bytes: 500, 64KB, 1MB; K is 1,024.
func parseSize(s string) (int, error) {
	unit := 1
	for suffix, u := range map[string]int{"KB": 1 << 10, "MB": 1 << 20} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = rest, u
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > (256<<20)/unit {
		return 0, fmt.Errorf("want a size from 1 to 256MB")
	}
	return n * unit, nil
}

// breaks tells whether the answer needs the connection itself.
func (o *orders) breaks() bool { return o.raw != "" || o.ending == cutting || o.ending == finning }

// refusal is the provider's error that the directives ask for before any answer.
func (o *orders) refusal(h http.Header) error {
	if o.status != 0 {
		return &failure{status: o.status, message: reason(o.status), code: reasonCode(o.status)}
	}
	if o.flaky > 0 {
		if n, _ := strconv.Atoi(h.Get("X-Stainless-Retry-Count")); n < o.flaky {
			return &failure{status: http.StatusServiceUnavailable, message: reason(http.StatusServiceUnavailable)}
		}
	}
	return nil
}

// reason is what providers say of a status.
func reason(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "Invalid value for a parameter of the request."
	case http.StatusUnauthorized:
		return "Incorrect API key provided."
	case http.StatusForbidden:
		return "Your organization does not have access to this model."
	case http.StatusNotFound:
		return "The model does not exist or you do not have access to it."
	case http.StatusTooManyRequests:
		return "Rate limit reached for requests per min. Please try again in 20ms."
	case http.StatusServiceUnavailable, statusOverloaded:
		return "Overloaded. Please try again later."
	}
	if status >= 500 {
		return "The server had an error while processing your request."
	}
	return "The request was refused with status " + strconv.Itoa(status) + "."
}

// reasonCode is OpenAI's code for a status; most have none.
func reasonCode(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "invalid_api_key"
	case http.StatusForbidden:
		return "model_not_allowed"
	case http.StatusNotFound:
		return "model_not_found"
	case http.StatusTooManyRequests:
		return "rate_limit_exceeded"
	}
	return ""
}
