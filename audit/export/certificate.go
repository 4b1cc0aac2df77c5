package export

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

var (
	//go:embed certificate.html
	certificatePage string
	//go:embed certificate.css
	certificateStyle string
)

const (
	// mostAttached is the largest bundle, in bytes, that a certificate has attached.
	mostAttached = 8 << 20
	// mostFindings is how many findings a certificate lists; those that are false all are.
	mostFindings = 400
)

// A certified is what stands on the page.
type certified struct {
	StyleHash string
	Style     template.CSS

	File, Format, SHA256, Quoted string
	Size, Entries                int
	Attached                     template.URL
	Sessions                     []certifiedSession

	By, At, Reason, Software string

	Origin       string
	TreeSize     uint64
	Root         tlog.Hash
	Cosignatures []certifiedCosignature
	Policy       string
	PolicySHA256 string

	OK                  bool
	Claims, False, More int
	Findings            []verify.Finding
	NotProven           []string
}

type certifiedSession struct {
	ID         record.ID
	Began, End string
	Erased     bool
	Entries    string
	Leaf       tlog.Hash
}

type certifiedCosignature struct{ Name, KeyID, At string }

// certificate checks the bundle by the policy, and draws up a certificate of what it found. Where a claim is false the page says so, and has
// no lines to sign.
func (c *cargo) certificate() ([]byte, error) {
	if c.Policy == nil {
		return nil, errors.New("a certificate says whom its check believed: give a policy")
	}
	report, err := verify.Check(c.raw, verify.Trust{Policy: c.Policy})
	if err != nil {
		return nil, err
	}
	style, bundle := sha256.Sum256([]byte(certificateStyle)), sha256.Sum256(c.raw)
	policy := c.Policy.Text()
	policySum := sha256.Sum256(policy)
	p := certified{
		StyleHash: "sha256-" + base64.StdEncoding.EncodeToString(style[:]), Style: template.CSS(certificateStyle),
		File: c.Name, Format: verify.Format, SHA256: hex.EncodeToString(bundle[:]), Size: len(c.raw),
		By: c.By, At: c.At.UTC().Format("2006-01-02 15:04:05 UTC"), Reason: c.Reason, Software: c.Software,
		Origin: c.origin, TreeSize: c.tree.Size, Root: c.tree.Root, Policy: string(policy), PolicySHA256: hex.EncodeToString(policySum[:]),
		OK: report.OK(), Claims: len(report.Findings), NotProven: report.NotProven,
	}
	if p.File == "" {
		p.File = c.sessions[0].ID.String() + ".bundle"
	}
	p.Quoted = quote(p.File)
	if len(c.raw) <= mostAttached {
		p.Attached = template.URL("data:application/octet-stream;base64," + base64.StdEncoding.EncodeToString(c.raw))
	}
	for i := range c.sessions {
		s := &c.sessions[i]
		es := s.Transcript.Entries
		p.Entries += len(es)
		at := fmt.Sprintf("%d to %d", es[0].Index, es[len(es)-1].Index)
		if len(es) == 1 {
			at = fmt.Sprint(es[0].Index)
		}
		p.Sessions = append(p.Sessions, certifiedSession{s.ID, stamp(s.began()), s.end(), s.Erased, at, s.leaf(s.last())})
	}
	// What a quorum asks for is the report's to say; what is listed is what was verified.
	_, cosigs, err := c.Policy.Check(c.signed)
	if short := new(tlog.QuorumError); err == nil || errors.As(err, &short) {
		for _, s := range cosigs {
			p.Cosignatures = append(p.Cosignatures, certifiedCosignature{s.Name, fmt.Sprintf("%08x", s.KeyID), stamp(s.At())})
		}
	}
	for _, f := range report.Findings {
		if !f.OK {
			p.False++
		}
		if f.OK && len(p.Findings) >= mostFindings {
			p.More++
			continue
		}
		p.Findings = append(p.Findings, f)
	}
	page, err := template.New("certificate").Parse(certificatePage)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := page.Execute(&b, p); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func stamp(t time.Time) string {
	return strings.Replace(t.UTC().Format(time.RFC3339Nano), "T", " ", 1)
}
