package disk

import "math/bits"

// hashEOF is EXT4_HTREE_EOF_32BIT: the hash that marks the end of a
// directory. No name has it; the one that would is hashed to the value before.
const hashEOF = 0x7fffffff

// defaultSeed is what names are hashed from when the superblock holds no seed:
// the initial state of MD4.
var defaultSeed = [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}

// EffectiveHash is the hash version that directories with version v in their
// root use in this file system: the unsigned variant when s_flags says that
// the hashes were made where char is unsigned.
func (sb *Superblock) EffectiveHash(v HashVersion) HashVersion {
	if v <= HashTea && sb.Flags&SuperUnsignedHash != 0 {
		return v + (HashLegacyUnsigned - HashLegacy)
	}
	return v
}

// NameHash is the hash of a directory entry's name, its low bit clear, and a
// second word that tells names of the same hash apart (ext4fs_dirhash). Names
// of casefolded directories are folded by the caller. v is an effective
// version; for [HashSip], which needs a key, and unknown versions ok is false.
func NameHash(v HashVersion, seed [4]uint32, name []byte) (hash, minor uint32, ok bool) {
	buf := seed
	if buf == [4]uint32{} {
		buf = defaultSeed
	}
	var in [8]uint32
	switch v {
	case HashLegacy:
		hash = legacyHash(name, true)
	case HashLegacyUnsigned:
		hash = legacyHash(name, false)
	case HashHalfMD4, HashHalfMD4Unsigned:
		for rest := name; len(rest) > 0; rest = rest[min(32, len(rest)):] {
			packName(in[:8], rest, v == HashHalfMD4)
			halfMD4(&buf, &in)
		}
		hash, minor = buf[1], buf[2]
	case HashTea, HashTeaUnsigned:
		for rest := name; len(rest) > 0; rest = rest[min(16, len(rest)):] {
			packName(in[:4], rest, v == HashTea)
			teaTransform(&buf, (*[4]uint32)(in[:4]))
		}
		hash, minor = buf[0], buf[1]
	default:
		return 0, 0, false
	}
	hash &^= 1
	if hash == hashEOF<<1 {
		hash = (hashEOF - 1) << 1
	}
	return hash, minor, true
}

// charVal is a byte of a name as the hash takes it: sign-extended where the
// hash was defined with signed char.
func charVal(c byte, signed bool) uint32 {
	if signed {
		return uint32(int32(int8(c)))
	}
	return uint32(c)
}

// legacyHash is dx_hack_hash: two words run in turns over the bytes.
func legacyHash(name []byte, signed bool) uint32 {
	h0, h1 := uint32(0x12a3fe2d), uint32(0x37abe8f9)
	for _, c := range name {
		h := h1 + (h0 ^ charVal(c, signed)*7152373)
		if h&0x80000000 != 0 {
			h -= 0x7fffffff
		}
		h1, h0 = h0, h
	}
	return h0 << 1
}

// packName fills out with the first 4*len(out) bytes of name, the first byte
// of each word highest, and pads with the length, as str2hashbuf does.
func packName(out []uint32, name []byte, signed bool) {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	n := min(len(name), 4*len(out))
	val, words := pad, 0
	for i := range n {
		val = charVal(name[i], signed) + val<<8
		if i%4 == 3 {
			out[words] = val
			words++
			val = pad
		}
	}
	if words < len(out) {
		out[words] = val
		words++
	}
	for ; words < len(out); words++ {
		out[words] = pad
	}
}

// halfMD4 is the kernel's half_md4_transform: three rounds of eight steps.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5A827999, 0x6ED9EBA1
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]

	for i, s := range [8]int{3, 7, 11, 19, 3, 7, 11, 19} {
		a, b, c, d = d, bits.RotateLeft32(a+f(b, c, d)+in[i], s), b, c
	}
	for i, w := range [8]int{1, 3, 5, 7, 0, 2, 4, 6} {
		s := [4]int{3, 5, 9, 13}[i%4]
		a, b, c, d = d, bits.RotateLeft32(a+g(b, c, d)+in[w]+k2, s), b, c
	}
	for i, w := range [8]int{3, 7, 2, 6, 1, 5, 0, 4} {
		s := [4]int{3, 9, 11, 15}[i%4]
		a, b, c, d = d, bits.RotateLeft32(a+h(b, c, d)+in[w]+k3, s), b, c
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}

// teaTransform is the Tiny Encryption Algorithm with in as its key.
func teaTransform(buf *[4]uint32, in *[4]uint32) {
	const delta = 0x9E3779B9
	var sum uint32
	b0, b1 := buf[0], buf[1]
	for range 16 {
		sum += delta
		b0 += (b1<<4 + in[0]) ^ (b1 + sum) ^ (b1>>5 + in[1])
		b1 += (b0<<4 + in[2]) ^ (b0 + sum) ^ (b0>>5 + in[3])
	}
	buf[0] += b0
	buf[1] += b1
}
