package disk

import (
	"errors"
	"testing"
)

// wantCorrupt checks that err is nil if field is "", and else that it is a
// CorruptError about that field, at byte off of block blk.
func wantCorrupt(t *testing.T, what string, err error, field string, blk PBlock, off int) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Errorf("%s: got %v, want no error", what, err)
		}
		return
	}
	var c *CorruptError
	switch {
	case !errors.Is(err, ErrCorrupt) || !errors.As(err, &c):
		t.Errorf("%s: got %v, want a CorruptError about %s", what, err, field)
	case c.Field != field || c.Block != blk || c.Off != off:
		t.Errorf("%s: got %s at block %d+%#x (%v), want %s at block %d+%#x", what, c.Field, c.Block, c.Off, err, field, blk, off)
	case c.Have == "" || c.Want == "" || c.Struct == "" || c.Have == c.Want:
		t.Errorf("%s: %v does not say what is there and what may be", what, err)
	}
}

func TestCorruptError(t *testing.T) {
	err := error(&CorruptError{Struct: "group descriptor", Num: 1, Block: 2, Off: 0x5e, Field: "bg_checksum", Have: "0x7a8d", Want: "0x958f"})
	if got, want := err.Error(), "group descriptor 1 (block 2+0x5e): bg_checksum is 0x7a8d, want 0x958f"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, ErrCorrupt) || errors.Is(err, errors.ErrUnsupported) {
		t.Error("a CorruptError is ErrCorrupt and nothing else")
	}
}

// fill returns a block of size bytes that begins and ends as b does.
func fill(size int, b []byte) []byte {
	out := make([]byte, size)
	copy(out, b)
	tail := b[max(0, len(b)-16):]
	copy(out[size-len(tail):], tail)
	return out
}
