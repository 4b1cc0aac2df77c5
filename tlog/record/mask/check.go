package mask

import (
	"crypto/sha256"
	"math"
)

// The checks take what is left of a number without its separators: digits, and letters in upper case.

// digit returns the value of a digit, and of a letter as in ISO 7064: A is 10.
func digit(c byte) int {
	if c >= 'A' {
		return int(c-'A') + 10
	}
	return int(c - '0')
}

// luhn is the check of ISO/IEC 7812-1: the last digit is the check digit.
func luhn(v []byte) bool { return luhnSum(v)%10 == 0 }

func luhnSum(v []byte) int {
	sum := 0
	double := false
	for i := len(v) - 1; i >= 0; i-- {
		d := int(v[i] - '0')
		if double {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		double = !double
	}
	return sum
}

// weighted returns the sum of the digits times the weights; v may be longer than the weights.
func weighted(v []byte, weights ...int) int {
	sum := 0
	for i, w := range weights {
		sum += w * digit(v[i])
	}
	return sum
}

// mod97 returns the number that the digits and letters spell (ISO 7064), modulo 97.
func mod97(v []byte, rest int) int {
	for _, c := range v {
		if d := digit(c); d > 9 {
			rest = (rest*100 + d) % 97
		} else {
			rest = (rest*10 + d) % 97
		}
	}
	return rest
}

// mod11x10 is the pure check of ISO 7064 MOD 11,10.
func mod11x10(v []byte) bool {
	product := 10
	for _, c := range v[:len(v)-1] {
		sum := (digit(c) + product) % 10
		if sum == 0 {
			sum = 10
		}
		product = sum * 2 % 11
	}
	return (11-product)%10 == digit(v[len(v)-1])
}

var verhoeffTurn = [8][10]uint8{
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 5, 7, 6, 2, 8, 3, 0, 9, 4}, {5, 8, 0, 3, 7, 9, 6, 1, 4, 2}, {8, 9, 1, 6, 0, 4, 3, 5, 2, 7},
	{9, 4, 5, 3, 1, 2, 6, 8, 7, 0}, {4, 2, 8, 6, 5, 7, 3, 9, 0, 1}, {2, 7, 9, 3, 8, 0, 6, 4, 1, 5}, {7, 0, 4, 6, 9, 1, 3, 2, 5, 8},
}

// verhoeff is the check of the dihedral group D5.
func verhoeff(v []byte) bool {
	c := 0
	for i := range v {
		d := int(verhoeffTurn[i%8][v[len(v)-1-i]-'0'])
		switch { // the product c·d in D5
		case c < 5 && d < 5:
			c = (c + d) % 5
		case c < 5:
			c = 5 + (c+d-5)%5
		case d < 5:
			c = 5 + (c-5-d+5)%5
		default:
			c = (c - d + 5) % 5
		}
	}
	return c == 0
}

// icao is the check of ICAO 9303: weights 7, 3, 1.
func icao(v []byte) bool {
	sum := 0
	for i, c := range v[:len(v)-1] {
		sum += digit(c) * [3]int{7, 3, 1}[i%3]
	}
	return sum%10 == digit(v[len(v)-1])
}

func same(v []byte) bool {
	for _, c := range v {
		if c != v[0] {
			return false
		}
	}
	return true
}

func number(v []byte) int {
	n := 0
	for _, c := range v {
		n = n*10 + int(c-'0')
	}
	return n
}

// isDay reports whether the digits can be month and day.
func isDay(month, day []byte) bool {
	m, d := number(month), number(day)
	return 1 <= m && m <= 12 && 1 <= d && d <= [...]int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[m-1]
}

// entropy returns Shannon's entropy of the bytes, in bits a byte.
func entropy(b []byte) float64 {
	var count [256]int
	for _, c := range b {
		count[c]++
	}
	sum := 0.0
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(b))
			sum -= p * math.Log2(p)
		}
	}
	return sum
}

const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// base58check reports whether v spells 25 bytes of which the last four are the head of the double SHA-256 of the others: an
// address of Bitcoin and its kin.
func base58check(v []byte) bool {
	var n [25]byte
	for _, c := range v {
		carry := -1
		for i := range len(base58) {
			if base58[i] == c {
				carry = i
			}
		}
		if carry < 0 {
			return false
		}
		for i := len(n) - 1; i >= 0; i-- {
			carry += 58 * int(n[i])
			n[i] = byte(carry)
			carry >>= 8
		}
		if carry != 0 {
			return false
		}
	}
	sum := sha256.Sum256(n[:21])
	sum = sha256.Sum256(sum[:])
	return [4]byte(n[21:]) == [4]byte(sum[:4])
}

// bech32 checks an address as in BIP 173 and BIP 350, in lower case; hrp is the length of the part before the 1.
func bech32(v []byte, hrp int) bool {
	chk := uint32(1)
	step := func(d byte) {
		top := chk >> 25
		chk = chk&0x1ffffff<<5 ^ uint32(d)
		for i, g := range [...]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				chk ^= g
			}
		}
	}
	for _, c := range v[:hrp] {
		step(c >> 5)
	}
	step(0)
	for _, c := range v[:hrp] {
		step(c & 31)
	}
	const charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	for _, c := range v[hrp+1:] {
		d := -1
		for i := range len(charset) {
			if charset[i] == c {
				d = i
			}
		}
		if d < 0 {
			return false
		}
		step(byte(d))
	}
	return chk == 1 || chk == 0x2bc830a3
}
