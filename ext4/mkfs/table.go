package mkfs

// A table is a list of any length that is never copied to grow.
type table[T any] struct {
	chunks [][]T
	n      uint64
}

const tableChunk = 1024 // entries

// at returns entry i, which stays where it is.
func (t *table[T]) at(i uint32) *T { return &t.chunks[i/tableChunk][i%tableChunk] }

// add adds an entry and returns its number.
func (t *table[T]) add(v T) uint32 {
	i := t.n
	if i%tableChunk == 0 {
		t.chunks = append(t.chunks, make([]T, tableChunk))
	}
	t.n++
	*t.at(uint32(i)) = v
	return uint32(i)
}

// A text is many short strings of bytes.
type text struct{ chunks [][]byte }

const textChunk = 128 << 10 // bytes, more than any inode has

// add keeps a copy of b and returns where it stands.
func (t *text) add(b []byte) uint64 {
	last := len(t.chunks) - 1
	if last < 0 || textChunk-len(t.chunks[last]) < len(b) {
		t.chunks = append(t.chunks, make([]byte, 0, textChunk))
		last++
	}
	c := &t.chunks[last]
	at := uint64(last)*textChunk + uint64(len(*c))
	*c = append(*c, b...)
	return at
}

// at returns the n bytes that stand at a place.
func (t *text) at(where uint64, n int) []byte {
	off := where % textChunk
	return t.chunks[where/textChunk][off:][:n:n]
}
