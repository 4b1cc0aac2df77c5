package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/verify"
)

// day is the bundle that verify keeps for ever, and its policy.
func day(t testing.TB) (bundle []byte, policy *tlog.Policy) {
	t.Helper()
	bundle, err := os.ReadFile("../../verify/testdata/day.bundle")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../verify/testdata/day.policy")
	if err != nil {
		t.Fatal(err)
	}
	if policy, err = tlog.ParsePolicy(text); err != nil {
		t.Fatal(err)
	}
	return bundle, policy
}

func TestCertificate(t *testing.T) {
	bundle, policy := day(t)
	about := About{By: `Carol <script>alert(1)</script>`, Reason: `case 12 & "more" </style>`, At: began, Software: "tallystick/0.0.1", Policy: policy, Name: "it's.bundle"}
	_, kind, page, err := As(Certificate, bundle, about)
	if err != nil {
		t.Fatal(err)
	}
	if kind != "text/html; charset=utf-8" {
		t.Error(kind)
	}
	report, err := verify.Check(bundle, verify.Trust{Policy: policy})
	if err != nil || !report.OK() {
		t.Fatal(err)
	}
	want := []string{
		"DRAFT", "not legal advice", fmt.Sprintf("%x", sha256.Sum256(bundle)), fmt.Sprintf("%d bytes", len(bundle)), "log.example/test", "Carol &lt;script&gt;",
		"case 12 &amp; &#34;more&#34; &lt;/style&gt;", "2026-11-25 19:27:06 UTC", "tallystick/0.0.1", "witness.example/a", "witness.example/b", "2026-11-02 09:30:04Z",
		fmt.Sprintf("All %d claims hold", len(report.Findings)), "902(13)", "902(14)", "ISO/IEC 27037", "Signature", "sha256sum &#39;it&#39;\\&#39;&#39;s.bundle&#39;",
		"019a4200-0000-7000-8000-000000000002", "truncated", base64.StdEncoding.EncodeToString(bundle[:30]),
	}
	for _, f := range report.Findings {
		want = append(want, "<code>"+string(f.Claim)+"</code>")
	}
	for _, w := range want {
		if !bytes.Contains(page, []byte(w)) && !bytes.Contains(page, []byte(strings.ReplaceAll(w, "+", "&#43;"))) {
			t.Errorf("%q is not on the page", w)
		}
	}
	for _, n := range report.NotProven {
		if !bytes.Contains(page, []byte(n[:20])) {
			t.Errorf("that %q is not proven is not on the page", n)
		}
	}
	// No script, nothing that is loaded, and a style that the policy of the page allows by its hash.
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindSubmatch(page)
	if style == nil {
		t.Fatal("no style")
	}
	sum := sha256.Sum256(style[1])
	if !bytes.Contains(page, []byte("default-src &#39;none&#39;; style-src &#39;sha256-"+base64.StdEncoding.EncodeToString(sum[:]))) &&
		!bytes.Contains(page, []byte("default-src 'none'; style-src 'sha256-"+strings.ReplaceAll(base64.StdEncoding.EncodeToString(sum[:]), "+", "&#43;")+"'")) {
		t.Errorf("the page's policy does not allow its style: %.900s", page)
	}
	if m := regexp.MustCompile(`(?i)<script|<link|<img|<iframe|<form|\bon[a-z]+=|url\(|@import|style="`).Find(page); m != nil {
		t.Errorf("the page has %q", m)
	}
	about.Policy = nil
	if _, _, _, err := As(Certificate, bundle, about); err == nil {
		t.Error("a certificate says nothing of whom it believed")
	}
}

// Of a bundle that does not hold, there is nothing to sign.
func TestCertificateOfFalse(t *testing.T) {
	bundle, _ := day(t)
	other, err := tlog.ParsePolicy([]byte("quorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, page, err := As(Certificate, bundle, About{By: "carol", Reason: "case 12", At: began, Software: "tallystick/0.0.1", Policy: other})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"claims do NOT hold", "<code>checkpoint-signed</code>", ">NO</td>"} {
		if !bytes.Contains(page, []byte(w)) {
			t.Errorf("%q is not on the page", w)
		}
	}
	for _, w := range []string{"902(13)", "Signature", "perjury", "claims hold"} {
		if bytes.Contains(page, []byte(w)) {
			t.Errorf("%q is on the page", w)
		}
	}
}
