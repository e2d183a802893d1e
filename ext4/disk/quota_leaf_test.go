package disk

import "testing"

// A leaf block finds what is in it, and what is free.
func TestQuotaLeafFind(t *testing.T) {
	b := make([]byte, QuotaBlockSize)
	h := QuotaLeafHeader{NextFree: 5, PrevFree: 6, Entries: 2}
	h.Put(b)
	if got := DecodeQuotaLeafHeader(b); got != h {
		t.Errorf("%+v, want %+v", got, h)
	}
	for i, id := range []uint32{7, 0} {
		at := QuotaLeafFind(b, 0, true)
		if want := quotaLeafHeader + i*QuotaEntrySize; at != want {
			t.Fatalf("free at %d, want %d", at, want)
		}
		e := QuotaEntry{ID: id}
		e.Put(b[at:])
		KeepQuotaEntry(b[at:]) // id 0 with nothing would be a free entry
		if got := QuotaLeafFind(b, id, false); got != at {
			t.Errorf("id %d at %d, want %d", id, got, at)
		}
	}
	if got := QuotaLeafFind(b, 8, false); got != -1 {
		t.Errorf("id 8 at %d", got)
	}
	for i := range QuotaLeafEntries {
		(&QuotaEntry{ID: uint32(i), Space: 1}).Put(b[quotaLeafHeader+i*QuotaEntrySize:])
	}
	if got := QuotaLeafFind(b, 0, true); got != -1 {
		t.Errorf("a full leaf has room at %d", got)
	}
}
