package disk

import "testing"

func TestCryptPolicy(t *testing.T) {
	for _, tt := range []struct {
		version   byte
		size      int
		policy    int // its length
		known, ok bool
	}{
		{0, 28, 0, false, false},
		{1, 28, 12, true, true},
		{1, 27, 11, true, false},
		{1, 1, 0, true, false},
		{2, 40, 24, true, true},
		{2, 28, 12, true, false},
		{3, 99, 0, false, true},
	} {
		b := make([]byte, tt.size)
		b[0] = tt.version
		policy, known, ok := CryptPolicy(b)
		if len(policy) != tt.policy || known != tt.known || ok != tt.ok {
			t.Errorf("version %d, %d bytes: got %d bytes, %t, %t", tt.version, tt.size, len(policy), known, ok)
		}
	}
	if _, _, ok := CryptPolicy(nil); ok {
		t.Error("an empty context is one")
	}
}
