package mask

import "slices"

// A Kind says what a value is. The kinds of values that one country issues are named as Microsoft Presidio names them.
type Kind string

// The kinds that do not belong to one country. Those that do are in the table of MASKING.md; [Kinds] lists them all.
const (
	Card     Kind = "CARD"     // a payment card's number
	CVV      Kind = "CVV"      // a card's security code; always dropped
	PIN      Kind = "PIN"      // a card's personal number; always dropped
	Track    Kind = "TRACK"    // a card's magnetic stripe; always dropped
	IBAN     Kind = "IBAN"     // an account number of ISO 13616
	Email    Kind = "EMAIL"    // an e-mail address
	Phone    Kind = "PHONE"    // a telephone number
	IP       Kind = "IP"       // an IPv4 or IPv6 address or prefix
	MAC      Kind = "MAC"      // an address of IEEE 802
	Crypto   Kind = "CRYPTO"   // an address of Bitcoin, Ethereum and their kin
	Birth    Kind = "BIRTH"    // a date of birth
	Secret   Kind = "SECRET"   // a key, token or password, by rule
	Passport Kind = "PASSPORT" // a passport's number
	Licence  Kind = "LICENCE"  // a driving licence's number
	Account  Kind = "ACCOUNT"  // a bank account's number that is no IBAN
	Medical  Kind = "MEDICAL"  // a medical record's or a patient's number
	Person   Kind = "PERSON"   // a name; only by word lists
)

// always says which kinds must not be kept in any form: PCI DSS 4.0.1, 3.3.1.
var always = map[Kind]bool{CVV: true, PIN: true, Track: true}

// optional are kinds too common in innocent text to be looked for unasked: number plates, postal codes, company registers.
var optional = map[Kind]bool{
	"DE_KFZ": true, "DE_PLZ": true, "DE_HANDELSREGISTER": true, "IN_VEHICLE_REGISTRATION": true, "NG_VEHICLE_REGISTRATION": true,
	"TR_LICENSE_PLATE": true, "UK_POSTCODE": true, "UK_VEHICLE_REGISTRATION": true,
}

// contexts are the words that stand near a value of a kind. They are whole words in any case; a space matches a space, and
// a text is folded before it is compared, as are these. Those of national kinds follow Presidio's recognizers.
var contexts = map[Kind][]string{
	Card: {"card", "cards", "credit", "debit", "visa", "mastercard", "amex", "american express", "discover", "diners", "jcb", "maestro",
		"unionpay", "cc", "pan", "ccnum", "cardnumber", "card_number", "card number", "card no", "card #", "kreditkarte", "carte", "tarjeta", "carta"},
	CVV: {"cvv", "cvv2", "cvc", "cvc2", "cvn", "csc", "cid", "cav2", "security code", "security_code", "securitycode", "card code",
		"card verification", "verification value", "verification code"},
	PIN:      {"pin", "pin code", "pincode", "pin number", "pin no"},
	IBAN:     {"iban", "bank", "account"},
	Email:    {"email", "e-mail", "mail"},
	Phone:    {"phone", "phones", "telephone", "tel", "fax", "mobile", "cell", "cellphone", "whatsapp", "hotline", "telefon", "telefono", "telefone", "telepono", "celular", "portable", "handy", "mobil", "desk", "phone number", "telephone number"},
	phoneToo: {"call", "calling", "sms", "text me", "message", "messages", "contact", "dial", "ring", "reach", "answering", "registered", "office", "number"},
	IP:       {"ip", "ipv4", "ipv6", "ip address", "unspecified", "listen", "bind", "gateway", "host"},
	Birth: {"born", "birth", "birthday", "birthdate", "birth date", "date of birth", "dateofbirth", "date_of_birth", "dob", "d.o.b", "b-day",
		"geboren", "geburtsdatum", "geb", "naissance", "ne le", "nee le", "nacimiento", "nacido", "nacida", "nascita", "nato", "nata", "nascimento", "ur."},
	Passport: {"passport", "passports", "passport no", "travel document", "reisepass", "passeport", "pasaporte", "passaporto", "paszport",
		"pass-nr", "passnummer", "여권", "паспорт"},
	Licence: {"driver license", "drivers license", "driver's license", "driver licence", "driver's licence", "driving license", "driving licence",
		"license number", "licence number", "license no", "licence no", "dl number", "dl", "permit", "cdl", "driver", "permis", "patente", "licencia de conducir", "fuhrerschein"},
	Account: {"account", "accounts", "account number", "acct", "account no", "bank account", "checking", "savings", "konto", "kontonummer", "compte", "cuenta", "conto"},
	Medical: {"mrn", "medical record", "medical_record", "medical record number", "medicalrecordnumber", "patient id", "patient_id", "patientid", "patient number", "patient no",
		"hospital number", "chart number", "chart no", "health record", "ehr id", "member id", "subscriber id", "health plan", "policy number"},
	Crypto: {"wallet", "btc", "bitcoin", "crypto", "ethereum", "eth", "address"},

	"US_SSN":             {"ssn", "ssns", "social security", "social_security", "socialsecurity", "social", "ssn#", "ss#", "ssn4"},
	"US_ITIN":            {"itin", "individual taxpayer", "taxpayer", "tax id", "taxid", "tin"},
	"US_NPI":             {"npi", "national provider", "provider", "provider id", "provider identifier", "taxonomy"},
	"US_MBI":             {"medicare", "mbi", "beneficiary", "cms", "medicaid", "hicn"},
	"ABA_ROUTING_NUMBER": {"aba", "routing", "aba routing", "routing number", "bank routing", "rtn"},
	"MEDICAL_LICENSE":    {"medical", "certificate", "dea", "dea number", "prescriber"},

	"AU_ABN": {"abn", "australian business number"}, "AU_ACN": {"acn", "australian company number"},
	"AU_MEDICARE": {"medicare"}, "AU_TFN": {"tfn", "tax file number"},
	"BE_NN":  {"rijksregisternummer", "registre national", "insz", "niss", "national number"},
	"BR_CPF": {"cpf", "cadastro de pessoas"}, "BR_CNPJ": {"cnpj"},
	"CA_SIN": {"sin", "social insurance", "canada", "nas", "numero d'assurance sociale", "assurance sociale"},
	"CH_AHV": {"ahv", "avs", "ahv-nr", "sozialversicherungsnummer"},
	"CN_ID":  {"身份证", "身份证号", "resident id", "id card", "shenfenzheng"},
	"DE_BSNR": {"betriebsstattennummer", "betriebsstatten-nummer", "bsnr", "betriebsstatte", "praxisnummer", "arztpraxis", "praxis", "kv-nummer",
		"kassenarztliche vereinigung", "praxisadresse", "nebenbetriebsstatte", "hauptbetriebsstatte", "behandlungsort", "vertragsarztpraxis"},
	"DE_FUEHRERSCHEIN": {"fuhrerscheinnummer", "fuhrerschein", "fahrerlaubnis", "fahrerlaubnisnummer", "driving licence", "driving license",
		"driver's license", "licence number", "license number", "dokument nr", "dokument-nr"},
	"DE_HANDELSREGISTER": {"handelsregister", "handelsregisternummer", "amtsgericht", "registergericht", "hra", "hrb"},
	"DE_HEALTH_INSURANCE": {"krankenversicherungsnummer", "krankenversichertennummer", "versichertennummer", "kvnr", "krankenkasse",
		"krankenversicherung", "gesundheitskarte", "egk", "egk-nummer", "gkv", "versichertenausweis", "aok", "barmer", "dak"},
	"DE_ID_CARD":         {"personalausweis", "ausweis", "personalausweisnummer", "ausweisnummer", "ausweisdokument", "dokumentennummer", "npa", "identity card", "national id"},
	"DE_KFZ":             {"kennzeichen", "kfz-kennzeichen", "nummernschild", "zulassung", "kfz", "fahrzeug", "auto", "pkw", "lkw"},
	"DE_LANR":            {"arztnummer", "lanr", "arzt-nr", "arzt nr", "vertragsarzt", "kassenarzt", "kbv", "rezept", "verschreibung", "behandelnder arzt", "hausarzt", "facharzt"},
	"DE_PASSPORT":        {"reisepass", "pass", "passnummer", "reisepassnummer", "pass-nr", "dokumentennummer", "mrz"},
	"DE_PLZ":             {"plz", "postleitzahl", "postanschrift", "wohnort", "anschrift", "adresse"},
	"DE_SOCIAL_SECURITY": {"rentenversicherungsnummer", "sozialversicherungsnummer", "versicherungsnummer", "rvnr", "svnr", "sv-nummer", "rente", "rentenversicherung", "sozialversicherungsausweis"},
	"DE_TAX_ID":          {"steueridentifikationsnummer", "steuer-id", "steuerid", "identifikationsnummer", "idnr", "idnr.", "steuer-idnr", "steuernummer", "bzst"},
	"DE_TAX_NUMBER":      {"steuernummer", "steuer-nr", "steuer nr", "st.-nr", "st-nr", "finanzamt", "umsatzsteuer", "einkommensteuer", "gewerbesteuer", "steuerbescheid"},
	"DE_VAT_ID":          {"umsatzsteuer-identifikationsnummer", "umsatzsteueridentifikationsnummer", "ust-idnr", "ust-id", "ustidnr", "vat", "vat-id", "vat id", "finanzamt", "invoice", "rechnung"},
	"DK_CPR":             {"cpr", "cpr-nummer", "personnummer"},
	"ES_NIE":             {"numero de identificacion de extranjero", "nie"}, "ES_NIF": {"documento nacional de identidad", "dni", "nif", "identificacion"},
	"ES_PASSPORT":               {"pasaporte", "numero de pasaporte"},
	"FI_PERSONAL_IDENTITY_CODE": {"hetu", "henkilotunnus", "personbeteckningen", "personal identity code"},
	"FR_NIR":                    {"nir", "numero de securite sociale", "securite sociale", "insee"},
	"IN_AADHAAR":                {"aadhaar", "aadhar", "uidai"},
	"IN_GSTIN":                  {"gstin", "gst", "gst number", "tax identification"},
	"IN_PAN":                    {"permanent account number", "pan", "pan card"},
	"IN_PASSPORT":               {"indian passport"},
	"IN_VEHICLE_REGISTRATION":   {"rto", "vehicle", "plate", "registration", "registration number"},
	"IN_VOTER":                  {"voter", "epic", "elector photo identity card", "vote"},
	"IT_DRIVER_LICENSE":         {"patente", "patente di guida", "licenza", "licenza di guida"},
	"IT_FISCAL_CODE":            {"codice fiscale", "cf"},
	"IT_IDENTITY_CARD":          {"carta", "carta d'identita", "identita", "cie", "documento", "riconoscimento", "espatrio"},
	"IT_PASSPORT":               {"passaporto", "viaggio", "estero", "documento", "dogana"},
	"IT_VAT_CODE":               {"piva", "p.iva", "partita iva", "pi"},
	"KR_BRN":                    {"사업자등록번호", "사업자번호", "사업자", "brn", "business registration number", "business number", "tax registration number"},
	"KR_DRIVER_LICENSE":         {"운전면허", "운전면허번호", "면허번호", "korean driver license", "korean driver's license"},
	"KR_FRN":                    {"외국인등록번호", "외국인번호", "frn", "foreigner registration number"},
	"KR_PASSPORT":               {"여권", "korean passport"},
	"KR_RRN":                    {"주민등록번호", "주민번호", "rrn", "rrn#", "resident registration number"},
	"MX_CURP":                   {"curp"},
	"NG_NIN":                    {"nin", "national identification number", "national identity number", "nimc", "national identity", "nigeria id", "nigerian identification"},
	"NG_VEHICLE_REGISTRATION":   {"plate number", "vehicle registration", "license plate", "number plate", "plate", "plates", "vehicle", "registration"},
	"NL_BSN":                    {"bsn", "burgerservicenummer", "sofinummer"},
	"NO_FNR":                    {"fodselsnummer", "personnummer", "fnr"},
	"PH_TIN":                    {"tin", "taxpayer identification number", "bir", "taxpayer id", "tax id", "rdo"},
	"PL_PESEL":                  {"pesel"},
	"SE_ORGANISATIONSNUMMER":    {"organisationsnummer", "orgnr", "org nr", "orgnummer", "foretagsnummer"},
	"SE_PERSONNUMMER":           {"personnummer", "svenskt personnummer", "svensk id", "personal identity number", "samordningsnummer"},
	"SG_NRIC_FIN":               {"fin", "fin#", "nric", "nric#"},
	"SG_UEN":                    {"uen", "unique entity number", "business registration", "acra"},
	"TH_TNIN":                   {"thai national id", "thai id number", "tnin", "เลขประจำตัวประชาชน", "เลขบัตรประชาชน", "รหัสปชช"},
	"TR_LICENSE_PLATE":          {"plaka", "plakasi", "plaka numarasi", "kayit plakasi", "license plate", "number plate", "plate"},
	"TR_NATIONAL_ID":            {"tc kimlik", "kimlik no", "kimlik numarasi", "kimlik", "tckn", "tc no", "nufus cuzdani", "national id", "turkish id", "turk kimlik"},
	"UK_DRIVING_LICENCE":        {"driving licence", "driving license", "driver's licence", "dvla", "dl number", "licence number"},
	"UK_NHS":                    {"nhs", "national health service", "nhs number", "nhs no", "health authority"},
	"UK_NINO":                   {"national insurance", "ni number", "nino"},
	"UK_PASSPORT":               {"uk passport", "hmpo"},
	"UK_POSTCODE":               {"postcode", "post code", "postal code", "address", "delivery"},
	"UK_VEHICLE_REGISTRATION":   {"vehicle", "vehicles", "registration", "number plate", "licence plate", "license plate", "reg", "vrn", "dvla", "v5c", "mot"},
	"ZA_ID_NUMBER":              {"id", "identity", "identity number", "id number", "south african id", "rsa id", "smart id", "national id"},
}

// phoneToo are words that stand near telephone numbers, and near much else.
const phoneToo Kind = "+PHONE"

// Kinds returns the names of all kinds that are built in, those of one country too, in order.
func Kinds() []Kind {
	ks := []Kind{Card, CVV, PIN, Track, IBAN, Email, Phone, IP, MAC, Crypto, Birth, Secret, Passport, Licence, Account, Medical, Person}
	for i := range shapes {
		ks = append(ks, shapes[i].kind)
	}
	slices.Sort(ks)
	return slices.Compact(ks)
}
