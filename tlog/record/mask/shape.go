package mask

// How much must be known before a number of some form is believed to be what its form says.
type need uint8

const (
	sure  need = iota // its form and check digits suffice
	alone             // it is all that the text says, or a word of its context is near
	told              // a word of its context is near
	never
)

// Between the parts of a number may stand one of these.
const (
	space = 1 << iota
	dash
	dot
	slash
	under
	colon
	plus
	comma
	line
	mixed
	usual = space | dash
)

// A shape is one form of a kind's numbers. Separators are taken out, and letters made upper case, before it is compared.
type shape struct {
	kind Kind
	// form has one character for each of the number's: 9 for a digit, A for a letter, * for either; other digits, and letters
	// in lower case, stand for themselves.
	form   string
	whole  need   // when written without separators
	parted need   // when written in parts
	parts  string // the lengths of the parts, in digits of base 36; several ways separated by a space; empty for any
	seps   uint16 // what may separate the parts: the same everywhere, unless mixed is among them
	check  func(v []byte) bool
}

// shapes are tried in this order where the length is the same: what comes first wins where nothing else decides.
var shapes = []shape{
	{"US_SSN", "999999999", told, sure, "324", usual | dot, ssn},
	{"US_SSN", "999999999", never, alone, "54 36", dash, ssn},
	{"US_ITIN", "999999999", alone, sure, "324", usual, itin},
	{"US_ITIN", "999999999", never, alone, "54 36", usual, itin},
	{"US_MBI", "9A*9A*9AA99", sure, sure, "434", dash, mbi},
	{"US_NPI", "9999999999", alone, alone, "433", usual, npi},
	{"ABA_ROUTING_NUMBER", "999999999", alone, sure, "441", dash, aba},
	{"MEDICAL_LICENSE", "A*9999999", alone, never, "", 0, dea},

	{"BR_CPF", "99999999999", alone, sure, "3332", dot | dash | mixed, cpf},
	{"BR_CNPJ", "99999999999999", alone, sure, "23342", dot | slash | dash | mixed, cnpj},
	{"MX_CURP", "AAAA999999AAAAAA*9", sure, never, "", 0, curp},
	{"CA_SIN", "999999999", alone, alone, "333", usual, func(v []byte) bool { return v[0] != '0' && v[0] != '8' && luhn(v) && !same(v) }},

	{"AU_ABN", "99999999999", alone, sure, "2333", space, func(v []byte) bool {
		return v[0] != '0' && (weighted(v, 10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19)-10)%89 == 0
	}},
	{"AU_ACN", "999999999", alone, alone, "333", space, func(v []byte) bool {
		return (10-weighted(v, 8, 7, 6, 5, 4, 3, 2, 1)%10)%10 == digit(v[8]) && !same(v)
	}},
	{"AU_TFN", "999999999", told, alone, "333", space, func(v []byte) bool {
		return weighted(v, 1, 4, 3, 7, 5, 8, 6, 9, 10)%11 == 0 && !same(v)
	}},
	{"AU_MEDICARE", "9999999999", alone, alone, "451", space, func(v []byte) bool {
		return '2' <= v[0] && v[0] <= '6' && weighted(v, 1, 3, 7, 9, 1, 3, 7, 9)%10 == digit(v[8])
	}},
	{"CN_ID", "99999999999999999*", sure, never, "", 0, resident},
	{"IN_AADHAAR", "999999999999", alone, alone, "444", usual | colon, aadhaar},
	{"IN_GSTIN", "99*****9999A*z*", sure, never, "", 0, gstin},
	{"IN_PAN", "AAAAA9999A", alone, never, "", 0, func(v []byte) bool { return oneOf(v[3], "ABCFGHJLPT") }},
	{"IN_VOTER", "AAA9999999", alone, never, "", 0, nil},
	{"IN_PASSPORT", "A9999999", alone, told, "17 35", space, func(v []byte) bool { return v[1] != '0' && v[7] != '0' }},
	{"KR_RRN", "9999999999999", alone, sure, "67", dash, func(v []byte) bool { return isDay(v[2:4], v[4:6]) && oneOf(v[6], "1234") && number(v[7:9]) <= 95 }},
	{"KR_FRN", "9999999999999", alone, sure, "67", dash, func(v []byte) bool { return isDay(v[2:4], v[4:6]) && oneOf(v[6], "5678") }},
	{"KR_BRN", "9999999999", alone, alone, "325", dash, brn},
	{"KR_PASSPORT", "A999A9999", alone, never, "", 0, func(v []byte) bool { return oneOf(v[0], "MSROD") }},
	{"KR_PASSPORT", "A99999999", alone, never, "", 0, func(v []byte) bool { return oneOf(v[0], "MSROD") }},
	{"KR_DRIVER_LICENSE", "999999999999", told, alone, "2262", usual, func(v []byte) bool { n := number(v[:2]); return 11 <= n && n <= 28 && n != 27 }},
	{"PH_TIN", "999999999", told, alone, "333", dash, phTIN},
	{"PH_TIN", "999999999999", told, alone, "3333", dash, phTIN},
	{"SG_NRIC_FIN", "A9999999A", sure, never, "", 0, nric},
	{"SG_NRIC_FIN", "A9999999A", alone, never, "", 0, nil},
	{"SG_UEN", "99999999A", alone, never, "", 0, func(v []byte) bool {
		return v[8] == "XMKECAWLJDB"[weighted(v, 10, 4, 9, 3, 8, 2, 7, 1)%11]
	}},
	{"SG_UEN", "999999999A", alone, never, "", 0, func(v []byte) bool {
		return v[9] == "ZKCMDNERGWH"[weighted(v, 10, 8, 6, 4, 9, 7, 5, 3, 1)%11]
	}},
	{"SG_UEN", "A99AA9999A", alone, never, "", 0, func(v []byte) bool { return oneOf(v[0], "TSR") }},
	{"TH_TNIN", "9999999999999", alone, sure, "14521", usual, tnin},
	{"TR_NATIONAL_ID", "99999999999", sure, never, "", 0, tckn},

	{"FI_PERSONAL_IDENTITY_CODE", "999999A999*", sure, never, "", 0, hetu},
	{"FI_PERSONAL_IDENTITY_CODE", "999999999*", never, sure, "64", dash | plus, hetu},
	{"SE_PERSONNUMMER", "9999999999", alone, sure, "64", dash | plus, personnummer},
	{"SE_PERSONNUMMER", "999999999999", sure, sure, "84", dash | plus, personnummer},
	{"SE_ORGANISATIONSNUMMER", "9999999999", told, alone, "64", dash, func(v []byte) bool { return v[2] >= '2' && luhn(v) }},
	{"DK_CPR", "9999999999", told, told, "64", usual, func(v []byte) bool { return isDay(v[2:4], v[:2]) }},
	{"NO_FNR", "99999999999", sure, sure, "65", space, fnr},
	{"NL_BSN", "999999999", told, told, "432 333", usual | dot, bsn},
	{"BE_NN", "99999999999", alone, sure, "22232 632", dot | dash | mixed, func(v []byte) bool {
		return 97-number(v[:9])%97 == number(v[9:]) || 97-(2000000000+number(v[:9]))%97 == number(v[9:])
	}},
	{"CH_AHV", "9999999999999", sure, sure, "3442", dot, func(v []byte) bool {
		return string(v[:3]) == "756" && weighted(v, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1)%10 == 0
	}},
	{"FR_NIR", "999999*99999999", sure, sure, "1222332 1222333", usual, nir},
	{"ES_NIE", "A9999999A", sure, sure, "81", dash, nie},
	{"ES_NIF", "99999999A", sure, sure, "81", dash, nif},
	{"ES_NIF", "9999999A", told, alone, "71", dash, nif},
	{"ES_PASSPORT", "AAA999999", alone, never, "", 0, nil},
	{"IT_FISCAL_CODE", "AAAAAA**A**A***A", sure, never, "", 0, fiscal},
	{"IT_VAT_CODE", "99999999999", alone, alone, "83", under | space, func(v []byte) bool { return luhn(v) && !same(v) }},
	{"IT_DRIVER_LICENSE", "u1*******A", alone, never, "", 0, func(v []byte) bool {
		for _, c := range v[2:9] {
			if oneOf(c, "AIOQV") {
				return false
			}
		}
		return true
	}},
	{"IT_DRIVER_LICENSE", "AA9999999A", alone, never, "", 0, nil},
	{"IT_IDENTITY_CARD", "AA9999999", alone, alone, "27", space, nil},
	{"IT_IDENTITY_CARD", "9999999AA", alone, never, "", 0, nil},
	{"IT_IDENTITY_CARD", "AA99999AA", alone, never, "", 0, nil},
	{"IT_PASSPORT", "AA9999999", alone, never, "", 0, nil},
	{"PL_PESEL", "99999999999", alone, never, "", 0, pesel},

	{"DE_TAX_ID", "99999999999", alone, told, "2333", space, taxID},
	{"DE_VAT_ID", "de999999999", sure, sure, "", usual | dot | mixed, func(v []byte) bool { return mod11x10(v[2:]) }},
	{"DE_VAT_ID", "de999999999", told, told, "", usual | dot | mixed, nil},
	{"DE_SOCIAL_SECURITY", "99999999A999", sure, never, "", 0, rvnr},
	{"DE_HEALTH_INSURANCE", "A999999999", alone, never, "", 0, kvnr},
	{"DE_PASSPORT", "*********", alone, never, "", 0, germanDoc},
	{"DE_ID_CARD", "*********", alone, never, "", 0, germanDoc},
	{"DE_ID_CARD", "t99999999", told, never, "", 0, nil},
	{"DE_FUEHRERSCHEIN", "AA99999999*", alone, never, "", 0, nil},
	{"DE_LANR", "999999999", alone, never, "", 0, func(v []byte) bool { return !same(v) && (10-weighted(v, 4, 9, 4, 9, 4, 9)%10)%10 == digit(v[6]) }},
	{"DE_BSNR", "999999999", told, never, "", 0, func(v []byte) bool { return !same(v) }},
	{"DE_TAX_NUMBER", "9999999999999", alone, never, "", 0, func(v []byte) bool { n := number(v[:2]); return 1 <= n && n <= 16 }},
	{"DE_TAX_NUMBER", "99999999999", never, alone, "335 344", slash, nil},
	{"DE_TAX_NUMBER", "9999999999", never, alone, "235 244 334", slash, nil},
	{"DE_TAX_NUMBER", "999999999", never, alone, "234", slash, nil},

	{"ZA_ID_NUMBER", "9999999999999", sure, told, "6412", space, func(v []byte) bool {
		return isDay(v[2:4], v[4:6]) && !(string(v[2:6]) == "0229" && number(v[:2])%4 != 0) && v[10] <= '2' && v[11] >= '8' && luhn(v)
	}},
	{"NG_NIN", "99999999999", told, never, "", 0, verhoeff},

	{"UK_NHS", "9999999999", alone, alone, "334", usual, nhs},
	{"UK_NINO", "AA999999A", sure, sure, "22221 261", space, nino},
	{"UK_DRIVING_LICENCE", "*****999999*****", sure, never, "", 0, dvla},
	// Nine digits alone are an SSN if they are nothing with a check digit, and not one that was printed on a card in every wallet.
	{"US_SSN", "999999999", alone, never, "", 0, func(v []byte) bool { return ssn(v) && string(v) != "078051120" && string(v) != "219099999" }},
	{"UK_PASSPORT", "AA9999999", told, never, "", 0, nil},
	{"UK_PASSPORT", "999999999", told, never, "", 0, nil},

	// What people write after a word that says what it is.
	{Passport, "A99999999", told, never, "", 0, nil},
	{Passport, "999999999", told, never, "", 0, nil},
	{Passport, "A9999999", told, never, "", 0, nil},
	{Passport, "AA9999999", told, never, "", 0, nil},
	{Passport, "99AA99999", told, never, "", 0, nil},
	{Passport, "AAA999999", told, never, "", 0, nil},
	{Passport, "A999A9999", told, never, "", 0, nil},

	{"UK_POSTCODE", "A99AA", alone, sure, "23", space, postcode},
	{"UK_POSTCODE", "A999AA", alone, sure, "33", space, postcode},
	{"UK_POSTCODE", "A9A9AA", alone, sure, "33", space, postcode},
	{"UK_POSTCODE", "AA99AA", alone, sure, "33", space, postcode},
	{"UK_POSTCODE", "AA999AA", alone, sure, "43", space, postcode},
	{"UK_POSTCODE", "AA9A9AA", alone, sure, "43", space, postcode},
	{"UK_VEHICLE_REGISTRATION", "AA99AAA", alone, alone, "43", usual, func(v []byte) bool { n := number(v[2:4]); return 2 <= n && n <= 29 || 51 <= n && n <= 79 }},
	{"DE_PLZ", "99999", told, never, "", 0, func(v []byte) bool { return string(v) != "01000" && string(v) != "99999" && v[:1][0]+v[1] != '0'+'0' }},
	{"DE_KFZ", "AAA9999", alone, alone, "124 214", usual | mixed, nil},
	{"DE_KFZ", "AAAA9999", alone, alone, "224 314", usual | mixed, nil},
	{"DE_HANDELSREGISTER", "hr*99999", alone, alone, "35", space, nil},
	{"DE_HANDELSREGISTER", "hr*999999", alone, alone, "36", space, nil},
	{"IN_VEHICLE_REGISTRATION", "AA99AA9999", alone, alone, "2224", usual, nil},
	{"NG_VEHICLE_REGISTRATION", "AAA999AA", alone, alone, "35", usual, nil},
	{"TR_LICENSE_PLATE", "99AAA9999", alone, alone, "234", usual, plate},
	{"TR_LICENSE_PLATE", "99AAA999", alone, alone, "233", usual, plate},
	{"TR_LICENSE_PLATE", "99AA9999", alone, alone, "224", usual, plate},
	{"TR_LICENSE_PLATE", "99AA999", alone, alone, "223", usual, plate},
}

func oneOf(c byte, set string) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}

func ssn(v []byte) bool {
	return string(v[:3]) != "000" && string(v[:3]) != "666" && v[0] != '9' && string(v[3:5]) != "00" && string(v[5:]) != "0000" && !same(v)
}

func itin(v []byte) bool {
	n := number(v[3:5])
	return v[0] == '9' && (50 <= n && n <= 65 || 70 <= n && n <= 88 || 90 <= n && n <= 92 || 94 <= n)
}

func mbi(v []byte) bool {
	for i, c := range v {
		if oneOf(c, "SLOIBZ") || i == 0 && c == '0' {
			return false
		}
	}
	return true
}

func npi(v []byte) bool {
	return (v[0] == '1' || v[0] == '2') && (luhnSum(v)+24)%10 == 0 && !same(v[:9]) // 24: the prefix 80840
}

func aba(v []byte) bool {
	return oneOf(v[0], "0123678") && weighted(v, 3, 7, 1, 3, 7, 1, 3, 7, 1)%10 == 0 && !same(v)
}

func dea(v []byte) bool {
	return oneOf(v[0], "ABCDEFGHJKLMPRSTUX") && (v[1] == '9' || v[1] >= 'A') && weighted(v[2:], 1, 2, 1, 2, 1, 2)%10 == digit(v[8])
}

// twoSums checks the two last digits: each is 11 less a weighted sum modulo 11, or 0.
func twoSums(v []byte, weights []int) bool {
	n := len(v) - 2
	for k := range 2 {
		sum := weighted(v, weights[1-k:]...)
		want := (11 - sum%11) % 11
		if want == 10 {
			want = 0
		}
		if want != digit(v[n+k]) {
			return false
		}
	}
	return !same(v)
}

func cpf(v []byte) bool  { return twoSums(v, []int{11, 10, 9, 8, 7, 6, 5, 4, 3, 2}) }
func cnpj(v []byte) bool { return twoSums(v, []int{6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2}) }

func curp(v []byte) bool {
	sum := 0
	for i, c := range v[:17] {
		d := digit(c)
		if d >= 24 { // Ñ stands between N and O
			d++
		}
		sum += d * (18 - i)
	}
	return (v[10] == 'H' || v[10] == 'M' || v[10] == 'X') && isDay(v[6:8], v[8:10]) && (10-sum%10)%10 == digit(v[17])
}

func resident(v []byte) bool {
	return isDay(v[10:12], v[12:14]) && (string(v[6:8]) == "19" || string(v[6:8]) == "20") &&
		v[17] == "10X98765432"[weighted(v, 7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)%11]
}

func aadhaar(v []byte) bool {
	for i := range v {
		if v[i] != v[len(v)-1-i] {
			return v[0] >= '2' && verhoeff(v)
		}
	}
	return false
}

func gstin(v []byte) bool {
	state, letters := number(v[:2]), 0
	for _, c := range v[2:7] {
		if c >= 'A' {
			letters++
		}
	}
	return 1 <= state && state <= 37 && letters >= 3
}

func brn(v []byte) bool {
	last := digit(v[8]) * 5
	return (10-(weighted(v, 1, 3, 7, 1, 3, 7, 1, 3)+last/10+last)%10)%10 == digit(v[9])
}

func phTIN(v []byte) bool {
	return weighted(v, 9, 8, 7, 6, 5, 4, 3, 2)%11 == digit(v[8])
}

func nric(v []byte) bool {
	sum := weighted(v[1:], 2, 7, 6, 5, 4, 3, 2)
	switch v[0] {
	case 'S':
		return v[8] == "JZIHGFEDCBA"[sum%11]
	case 'T':
		return v[8] == "JZIHGFEDCBA"[(sum+4)%11]
	case 'F':
		return v[8] == "XWUTRQPNMLK"[sum%11]
	case 'G':
		return v[8] == "XWUTRQPNMLK"[(sum+4)%11]
	case 'M':
		return v[8] == "XWUTRQPNJLK"[10-(sum+3)%11]
	}
	return false
}

func tnin(v []byte) bool {
	return v[0] != '0' && (11-weighted(v, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2)%11)%10 == digit(v[12]) && thaiPlace(number(v[1:3]))
}

// thaiPlace says whether there is a province of that number.
func thaiPlace(n int) bool {
	switch {
	case n < 10:
		return false
	case n < 20, 30 <= n && n < 50:
		return true
	case n < 30:
		return n <= 27
	case n < 60:
		return n <= 58
	case n < 80:
		return n%10 <= 7
	}
	return n%10 <= 6
}

func tckn(v []byte) bool {
	odd := weighted(v, 1, 0, 1, 0, 1, 0, 1, 0, 1)
	even := weighted(v, 0, 1, 0, 1, 0, 1, 0, 1)
	return v[0] != '0' && (odd*7-even+100)%10 == digit(v[9]) && (odd+even+digit(v[9]))%10 == digit(v[10])
}

// hetu takes a code with the letter of its century or, where that is a sign, without it.
func hetu(v []byte) bool {
	n := number(v[:6])*1000 + number(v[len(v)-4:len(v)-1])
	return (len(v) == 10 || oneOf(v[6], "ABCDEFYXWVU")) && isDay(v[2:4], v[:2]) &&
		!(string(v[:4]) == "2902" && number(v[4:6])%4 != 0) && v[len(v)-1] == "0123456789ABCDEFHJKLMNPRSTUVWXY"[n%31]
}

func personnummer(v []byte) bool {
	if len(v) == 12 {
		if c := number(v[:2]); c < 18 || c > 20 {
			return false
		}
		v = v[2:]
	}
	day := number(v[4:6])
	if day > 60 {
		day -= 60
	}
	month := number(v[2:4])
	return 1 <= month && month <= 12 && 1 <= day && day <= 31 && luhn(v)
}

func fnr(v []byte) bool {
	day, month := number(v[:2])%40, number(v[2:4])%40
	return 1 <= day && day <= 31 && 1 <= month && month <= 12 &&
		weighted(v, 3, 7, 6, 1, 8, 9, 4, 5, 2, 1)%11 == 0 && weighted(v, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)%11 == 0
}

func bsn(v []byte) bool {
	return (weighted(v, 9, 8, 7, 6, 5, 4, 3, 2)-digit(v[8]))%11 == 0 && !same(v)
}

func nir(v []byte) bool {
	if v[0] != '1' && v[0] != '2' && v[0] != '7' && v[0] != '8' {
		return false
	}
	n := 0
	for i, c := range v[:13] {
		if c >= 'A' { // Corsica: 2A and 2B count as 19 and 18
			if i != 6 || v[5] != '2' || c > 'B' {
				return false
			}
			n = n - 2 + 20 - 1 - int(c-'A')
			n = n/10*10 + n%10
			continue
		}
		n = n*10 + int(c-'0')
	}
	return 97-n%97 == number(v[13:])
}

const nifLetters = "TRWAGMYFPDXBNJZSQVHLCKE"

func nif(v []byte) bool { return v[len(v)-1] == nifLetters[number(v[:len(v)-1])%23] }

func nie(v []byte) bool {
	return 'X' <= v[0] && v[0] <= 'Z' && v[8] == nifLetters[(int(v[0]-'X')*10000000+number(v[1:8]))%23]
}

func fiscal(v []byte) bool {
	odd := [36]int{1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23}
	sum := 0
	for i, c := range v[:15] {
		d := digit(c)
		switch {
		case i%2 == 0:
			sum += odd[d]
		case d > 9:
			sum += d - 10
		default:
			sum += d
		}
	}
	return oneOf(v[8], "ABCDEHLMPRST") && v[15] == byte('A'+sum%26)
}

func pesel(v []byte) bool {
	month := number(v[2:4]) % 20
	return 1 <= month && month <= 12 && weighted(v, 1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)%10 == 0 && isDay([]byte{'0' + byte(month/10), '0' + byte(month%10)}, v[4:6])
}

func taxID(v []byte) bool {
	var count [10]int
	for _, c := range v[:10] {
		if count[c-'0']++; count[c-'0'] > 3 {
			return false
		}
	}
	return v[0] != '0' && mod11x10(v)
}

// crossSum adds the digits of the products.
func crossSum(v []byte, weights ...int) int {
	sum := 0
	for i, w := range weights {
		p := w * digit(v[i])
		sum += p/10 + p%10
	}
	return sum
}

// place is a letter as two digits: A is 01.
func place(c byte) [2]byte {
	n := c - 'A' + 1
	return [2]byte{'0' + n/10, '0' + n%10}
}

func rvnr(v []byte) bool {
	day, month := number(v[2:4]), number(v[4:6])
	if !(1 <= day && day <= 31 || 51 <= day && day <= 81) || month < 1 || month > 12 {
		return false
	}
	p := place(v[8])
	return (crossSum(v, 2, 1, 2, 5, 7, 1, 2, 1)+crossSum(p[:], 2, 1)+crossSum(v[9:], 2, 1))%10 == digit(v[11])
}

func kvnr(v []byte) bool {
	p := place(v[0])
	return (crossSum(p[:], 1, 2)+crossSum(v[1:], 1, 2, 1, 2, 1, 2, 1, 2))%10 == digit(v[9])
}

// germanDoc is a passport or an identity card: letters that cannot be taken for digits or make words.
func germanDoc(v []byte) bool {
	for i, c := range v {
		if c >= 'A' && (oneOf(c, "ABDEIOQSU") || i == 8) || c < 'A' && i == 0 {
			return false
		}
	}
	return icao(v)
}

func nhs(v []byte) bool {
	return weighted(v, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)%11 == 0 && !same(v)
}

func nino(v []byte) bool {
	if oneOf(v[0], "DFIQUV") || oneOf(v[1], "DFIOQUV") || v[8] > 'D' {
		return false
	}
	switch string(v[:2]) {
	case "BG", "GB", "NK", "KN", "NT", "TN", "ZZ":
		return false
	}
	return true
}

func dvla(v []byte) bool {
	month, day := number(v[6:8]), number(v[8:10])
	if month > 50 {
		month -= 50
	}
	if month < 1 || month > 12 || day < 1 || day > 31 || v[0] == '9' {
		return false
	}
	nines := false
	for _, c := range v[:5] { // a name, filled up with nines
		if c < 'A' && c != '9' || nines && c != '9' {
			return false
		}
		nines = c == '9'
	}
	return (v[11] >= 'A' || v[11] == '9') && (v[12] >= 'A' || v[12] == '9') && v[14] >= 'A' && v[15] >= 'A'
}

func postcode(v []byte) bool {
	return !oneOf(v[0], "QVX") && !oneOf(v[len(v)-1], "CIKMOV") && !oneOf(v[len(v)-2], "CIKMOV")
}

func plate(v []byte) bool { n := number(v[:2]); return 1 <= n && n <= 81 }

// ibans says for each country what follows the four characters of country and check: n digits, a letters, c either.
const ibans = "AD8n12c AE19n AL8n16c AT16n AZ4c20n BA16n BE12n BG4a6n8c BH4a14c BI23n BR23n1a1c BY4c4n16c CH5n12c CR18n CY8n16c CZ20n DE18n " +
	"DJ23n DK14n DO4a20n EE16n EG25n ES20n FI14n FK2a12n FO14n FR10n11c2n GB4a14n GE2c16n GI4a15c GL14n GR7n16c GT24c HN4a20n " +
	"HR17n HU24n IE4c14n IL19n IQ4a15n IS22n IT1a10n12c JO4a4n18c KW4a22c KZ3n13c LB4n20c LC4a24c LI5n12c LT16n LU3n13c LV4a13c " +
	"LY21n MC10n11c2n MD20c ME18n MK3n10c2n MN16n MR23n MT4a5n18c MU4a19n3a NI4a20n NL4a10n NO11n OM3n16c PK4c16n PL24n PS4c21n " +
	"PT21n QA4a21c RO4a16c RS18n RU14n15c SA2n18c SC4a20n3a SD14n SE20n SI15n SK20n SM1a10n12c SO19n ST21n TL19n TN20n TR5n17c " +
	"UA6n19c VA18n VG4c16n XK16n YE4a4n18c"

// ibanForm returns the form that follows the country's two letters, or "".
func ibanForm(country []byte) string {
	for i := 0; i < len(ibans); {
		end := i
		for end < len(ibans) && ibans[end] != ' ' {
			end++
		}
		if ibans[i] == country[0] && ibans[i+1] == country[1] {
			return ibans[i+2 : end]
		}
		i = end + 1
	}
	return ""
}

// iban reports whether v, in upper case, is one.
func iban(v []byte) bool {
	form := ibanForm(v)
	at, n := 4, 0
	for i := range len(form) {
		c := form[i]
		if c <= '9' {
			n = n*10 + int(c-'0')
			continue
		}
		if at+n > len(v) {
			return false
		}
		for _, x := range v[at : at+n] {
			if c == 'n' && x > '9' || c == 'a' && x < 'A' {
				return false
			}
		}
		at, n = at+n, 0
	}
	return form != "" && at == len(v) && mod97(v[:4], mod97(v[4:], 0)) == 1
}

// network says whether a payment card can begin so and have that many digits (ISO/IEC 7812-1, and the networks' own words).
func network(v []byte) bool {
	n, p := len(v), number(v[:6])
	between := func(lo, hi int) bool { return lo <= n && n <= hi }
	switch p2, p3, p4 := p/10000, p/1000, p/100; {
	case p2/10 == 4:
		return n == 13 || n == 16 || n == 19 // Visa
	case 51 <= p2 && p2 <= 55, 2221 <= p4 && p4 <= 2720:
		return n == 16 // Mastercard
	case p2 == 34, p2 == 37:
		return n == 15 // American Express
	case 300 <= p3 && p3 <= 305, p3 == 309, p2 == 36, p2 == 38, p2 == 39:
		return between(14, 19) // Diners Club
	case 3528 <= p4 && p4 <= 3589:
		return between(16, 19) // JCB
	case p4 == 2131, p4 == 1800:
		return n == 15
	case 2200 <= p4 && p4 <= 2205:
		return between(16, 19) // Mir, Borica
	case p2 == 62, p2 == 81:
		return between(16, 19) // UnionPay
	case p2 == 60, p2 == 64, p2 == 65, p2 == 82, p3 == 508, p4 == 3536:
		return between(16, 19) // Discover, RuPay
	case p2 == 50, 56 <= p2 && p2 <= 58, p2/10 == 6:
		return between(12, 19) // Maestro
	case p4 == 9792, p4 == 8600, p4 == 9860, p4 == 9704:
		return between(16, 19) // Troy, Uzcard, Humo, Napas
	case p2 == 10, p2 == 11, p2 == 12:
		return n == 15 // UATP
	}
	return false
}
