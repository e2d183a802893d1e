package disk

// The value of the xattr c in namespace [XattrEncryption]: struct
// fscrypt_context_v1 and _v2 (fs/crypto/fscrypt_private.h).
const (
	CryptXattrName   = "c"
	cryptV1Size      = 28
	cryptV2Size      = 40
	cryptNonceSize   = 16
	MinEncryptedName = 16 // FSCRYPT_FNAME_MIN_MSG_LEN: names are padded to one AES block at least
)

// CryptPolicy is the policy part of an encryption context: all of it but the
// nonce, which is each file's own. Files of one policy have equal bytes there.
// known is false for versions that are not known here; ok is false for contexts
// that no version has.
func CryptPolicy(context []byte) (policy []byte, known, ok bool) {
	switch {
	case len(context) == 0 || context[0] == 0:
		return nil, false, false
	case context[0] == 1:
		return context[:max(0, len(context)-cryptNonceSize)], true, len(context) == cryptV1Size
	case context[0] == 2:
		return context[:max(0, len(context)-cryptNonceSize)], true, len(context) == cryptV2Size
	}
	return nil, false, true
}

// EncryptedSymlink is the length that the stored target of an encrypted
// symbolic link says it has, with the two bytes that say it.
func EncryptedSymlink(b []byte) int { return int(le.Uint16(b)) + 2 }
