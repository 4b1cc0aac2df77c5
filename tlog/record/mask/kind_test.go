package mask_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/tlog/record/mask"
)

// What is believed, and what is not: in each text the braces are around what must be found, and nothing else may be.
func TestKinds(t *testing.T) {
	m := masker(t, mask.Config{})
	for kind, texts := range map[mask.Kind][]string{
		mask.Card: {
			"{4111111111111111}", "{4111 1111 1111 1111}", "{4111-1111-1111-1111}", "{4111.1111.1111.1111}", "({378282246310005})", "{3782 822463 10005}",
			"{4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1}", "a,{4111111111111111},b", "id_{4111111111111111}", "card{4111111111111111}x", "#{5555555555554444}.", "{4111\n1111 1111 1111}",
			"my card is {4111 11 1111 1111 11}", "{4111111111111111} {5500000000000004}", "card no {0604 2607 0011}",
			// none: a wrong check digit, no network, a fraction, a part of more, the same digit
			"4111111111111112", "9111111111111111", "0.4111111111111111", "4111111111111111.5", "0000000000000000", "order 1234567812345678",
			"411111111111111111111111", "12345678-4111-1111-1111-411111111111",
		},
		mask.CVV: {"cvv {123}", "CVV2: {1234}", "security code is {987}", "cvv 12345", "in 123 days", "the code 123", `"cvc": "{321}"`},
		mask.PIN: {"PIN: {4821}", "my pin is {482193}", "pinned 4821", "spin 4821"},
		mask.Track: {
			"{%B4111111111111111^DOE/JANE^25121011000012300000?}", "{;4111111111111111=25121011000012300000?}", "swiped {%B4111111111111111^DOE/JANE X^2512101?} ok",
		},
		mask.IBAN: {
			"{DE89370400440532013000}", "{DE89 3704 0044 0532 0130 00}", "{GB82 WEST 1234 5698 7654 32}", "{gb82 west 1234 5698 7654 32}", "IBAN:{NL91ABNA0417164300}.", "{FR14 2004 1010 0505 0001 3M02 606}",
			"DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000", "{MT84MALT011000012345MTLCAST001S}",
		},
		mask.Email: {
			"{jane.doe+tag@example.co.uk}", "<{jane@example.com}>", "mailto:{jane@example.com}?subject=x", "{JANE@EXAMPLE.COM}", "{j@x.io}, {k@x.io}", "{jane@example.com}.", "{jürgen@müller.de}", "mail={jane@example.com}&x=1", "'{jane@example.com}'",
			"jane@example", "@example.com", "a@b", "npm:pkg@1.2.3", "@decorator.name x", "user@.com", "{git@github.com}:org/repo.git", "jane@@example.com",
		},
		mask.Phone: {
			"{+1 415 555 2671}", "call {(415) 555-2671}", "{415-555-2672}", "tel {0171 2345678}", "{+49 30 901820}", "phone: {555-0199}", "fax {+44 20 7946 0958 x12}",
			"1998-2004", "2024-05-05 10:30:00", "192 168 10 20", "chapter 12.3.4", "3.14159265", "1234567890123", "id 4155552671", "10-20-30-40",
		},
		mask.IP: {
			"{10.0.0.1}", "host {192.168.1.254}:8080", "{10.0.0.0/8}", "{2001:db8::1}", "{fe80::1%eth0}", "{::ffff:10.1.2.3}", "ip={203.0.113.7},", "at {2001:db8:85a3:0:0:8a2e:370:7334}.",
			"version 1.2.3.4", "v1.2.3.4", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "std::vector", "10:30:45", "a::b", "1:2:3:4",
		},
		mask.MAC:                    {"{00:1A:2B:3C:4D:5E}", "{00-1a-2b-3c-4d-5e}", "{0012.3456.789a}", "00:1A:2B:3C:4D", "00:1A:2B:3C:4D:5E:6F"},
		mask.Crypto:                 {"{1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa}", "{bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq}", "{0x52908400098527886E0F7030069857D2E4169EE7}", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdx"},
		mask.Birth:                  {"born {5 May 1980}", "dob: {1980-05-05}", "DOB {05/05/1980}", "date of birth: {May 5, 1980}", "birthday {5th of May 1980}", "geboren am {5.5.1980}", "dob={19800505}", "on 5 May 1980", "built 1980-05-05", "born in Paris, 3 of 4"},
		mask.Medical:                {"MRN: {00482913}", "medical record number {A-482913}", "patient id {482913}", "patient 482913 times", "MRN is unknown"},
		mask.Account:                {"account number {12345678}", "acct: {000123456789}", "account balance 12"},
		mask.Licence:                {"driver's license {D1234567}", "driving licence no. {6940579}", "license MIT 2024"},
		mask.Passport:               {"passport {X1234567}", "Passport No: {123456789}", "passport office"},
		"US_SSN":                    {"{078-05-1120}", "{078 05 1120}", "SSN {078051120}", "{078051121}", "{078-051121} {07805-1121}", "ssn: {219-09-9999}", "000-12-3456", "666-12-3456", "900-12-3456", "078-00-1120", "078-05-0000", "order 078051120 x", "1078-05-1120", "078-05-11201", "078-05-1120-3"},
		"US_ITIN":                   {"{912-70-1234}", "ITIN {912701234}", "912-20-1234"},
		"US_NPI":                    {"NPI {1234567893}", "npi: {1245319599}", "NPI 1234567890", "see 1234567893 of"},
		"US_MBI":                    {"{1EG4-TE5-MK73}", "{1EG4TE5MK73}", "1SG4-TE5-MK73"},
		"UK_NHS":                    {"NHS number {943 476 5919}", "nhs {9434765919}", "NHS 943 476 5918", "see 943 476 5919 of"},
		"UK_NINO":                   {"{AB 12 34 56 C}", "{AB123456C}", "AB123456E", "BG123456C", "QQ123456C"},
		"IN_AADHAAR":                {"aadhaar {2345 6789 0124}", "aadhaar 2345 6789 0123"},
		"BR_CPF":                    {"{529.982.247-25}", "CPF {52998224725}", "529.982.247-26"},
		"DE_TAX_ID":                 {"Steuer-ID {86095742719}", "Steuer-ID 86095742718"},
		"FR_NIR":                    {"{1 84 12 76 451 089 46}", "{184127645108946}", "1 84 12 76 451 089 47"},
		"ES_NIF":                    {"{12345678Z}", "12345678A"},
		"IT_FISCAL_CODE":            {"{RSSMRA85T10A562S}", "RSSMRA85T10A562T"},
		"PL_PESEL":                  {"PESEL {44051401359}", "PESEL 44051401358"},
		"SG_NRIC_FIN":               {"{S1234567D}", "x S1234567A y"},
		"KR_RRN":                    {"{900101-1234567}", "901301-1234567"},
		"ZA_ID_NUMBER":              {"{8001015009087}", "8001015009088"},
		"CN_ID":                     {"{11010519491231002X}", "110105194912310021"},
		"CH_AHV":                    {"{756.9217.0769.85}", "756.9217.0769.84"},
		"BE_NN":                     {"{85.07.30-033.28}", "85.07.30-033.29"},
		"MX_CURP":                   {"{BOXW310820HNERXN09}", "BOXW310820HNERXN08"},
		"BR_CNPJ":                   {"{11.444.777/0001-61}", "11.444.777/0001-62"},
		"NO_FNR":                    {"{29029600013}", "29029600014"},
		"NL_BSN":                    {"BSN {111222333}", "BSN 111222334"},
		"TR_NATIONAL_ID":            {"{10000000146}"},
		"ES_NIE":                    {"{X1234567L}", "X1234567M"},
		"SE_PERSONNUMMER":           {"{811218-9876}", "811218-9875"},
		"FI_PERSONAL_IDENTITY_CODE": {"{131052-308T}", "131052-308U"},
		"DE_SOCIAL_SECURITY":        {"{15070649C103}", "15070649C104"},
		"CA_SIN":                    {"SIN {130 692 544}", "SIN 130 692 545"},
		"AU_TFN":                    {"TFN {876 543 210}", "TFN 876 543 211"},
		"AU_ABN":                    {"ABN {51 824 753 556}", "ABN 51 824 753 557"},
		"DE_VAT_ID":                 {"{DE136695976}"},
		mask.Secret: {
			"key {AKIAIOSFODNN7EXAMPLE}", "{ghp_1234567890abcdefABCDEF1234567890abcd}", "https://{bob:hunter22}@example.com/x", `Authorization: Bearer {abcdEFGH1234abcdEFGH1234}`, "{eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln}",
			`password = "{hunter2hunter9XyZ}"`, "the key to success", "token ring and access control", "git checkout 0123456789abcdef0123456789abcdef01234567", "sk-1", "key: value", "password: secret",
			"{-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA0Z3VS5JJcds3xfn/ygWyF8PbnGy0AHB7MhgwMbRvI0MBZhpI\nabcdef0123456789ABCDEF0123456789\n-----END RSA PRIVATE KEY-----}\nbye",
		},
	} {
		for _, text := range texts {
			var want [][2]int
			var plain strings.Builder
			for rest := text; ; {
				before, after, ok := strings.Cut(rest, "{")
				plain.WriteString(before)
				if !ok {
					break
				}
				in, next, _ := strings.Cut(after, "}")
				want = append(want, [2]int{plain.Len(), plain.Len() + len(in)})
				plain.WriteString(in)
				rest = next
			}
			s := plain.String()
			var got [][2]int
			other := ""
			for _, f := range m.Find([]byte(s)) {
				if f.Kind == kind {
					got = append(got, [2]int{f.From, f.To})
				} else {
					other += fmt.Sprintf(" %s %q", f.Kind, s[f.From:f.To])
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s in %q: %v, want %v%s", kind, s, got, want, other)
			}
		}
	}
}

// Every kind has a name that can stand in a mask, and is written about.
func TestKindsListed(t *testing.T) {
	form := regexp.MustCompile(`^[A-Z][A-Z_]{1,31}$`)
	ks := mask.Kinds()
	if len(ks) < 80 {
		t.Fatalf("%d kinds", len(ks))
	}
	doc, err := os.ReadFile("MASKING.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range ks {
		if !regexp.MustCompile(`\b` + string(k) + `\b`).Match(doc) {
			t.Errorf("MASKING.md does not name %s", k)
		}
		if !form.MatchString(string(k)) {
			t.Errorf("%q", k)
		}
	}
}
