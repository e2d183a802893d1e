package jbd2

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A Writer adds transactions to a journal. A transaction becomes durable in
// four steps, each of which is on the device before the next begins:
//
//  1. the log holds its blocks, and the file system's device the data that it shows
//  2. the log holds its commit block: from now on it counts
//  3. its blocks are written to their places
//  4. the journal's superblock says that the log begins behind it
//
// A power cut before 2 is done leaves the file system as it was before the
// transaction, one after it as it is behind: recovery does what is left of 3.
//
// Steps 1 to 3 are [Writer.Commit]. Step 4 waits until the log is short of room, or
// for [Writer.Checkpoint].
//
// A Writer belongs to one goroutine at a time.
type Writer struct {
	j    *Journal
	home blockdev.Device // the file system's, where step 3 writes
	now  func() time.Time

	tid     uint32 // of the next transaction
	head    uint32 // where it goes
	tail    uint32 // where the log begins, as the superblock says
	tailTID uint32
	used    uint32 // blocks from tail to head
	empty   bool   // the superblock says that there is no log
	last    uint64 // commit time of the transaction before, seconds
	aborted error

	buf []byte // writes to the log are put together here
	at  uint32 // journal block of buf's start
}

// A Transaction is a set of blocks that change together.
type Transaction struct {
	Blocks []Block
	// Revokes are blocks that were metadata and no longer are. What older
	// transactions have logged of them is not to be written any more.
	Revokes []disk.PBlock
}

// A Block is what a block of the file system shall hold.
type Block struct {
	N    disk.PBlock
	Data []byte // is not changed, and must not be until Commit returns
}

const logWrite = 1 << 20 // bytes of one write to the log

// NewWriter returns a writer for a journal that has been recovered and marked
// clean. home is the file system's device. features are switched on in the journal, as
// the kernel does when it mounts; checksums exclude those of other versions.
//
// It fails with an [*UnsupportedError] for journals of version 1, and of more
// than one file system.
func NewWriter(j *Journal, home blockdev.Device, features disk.JournalFeature) (*Writer, error) {
	if !j.Clean() {
		panic("jbd2: a writer for a journal that has not been recovered")
	}
	if j.super.Version() != 2 {
		return nil, &UnsupportedError{What: "journal", Features: []string{"superblock of version 1"}}
	}
	w := &Writer{j: j, home: home, now: time.Now, tid: j.super.Sequence, head: j.first, empty: true}
	if h := j.super.Head; h >= j.first && h < j.last {
		w.head = h
	}
	w.tail, w.tailTID = w.head, w.tid
	if features.HasChecksums() {
		j.feat &^= disk.JournalCsumV2 | disk.JournalCsumV3
		j.super.Compat &^= disk.JournalChecksum
		j.super.ChecksumType = disk.JournalCRC32C
	}
	// A log of fast commits cannot tell that transactions came after it.
	j.feat |= features | disk.JournalRevoke
	if j.feat.HasChecksums() {
		j.seed = disk.JournalSeed(j.super.UUID)
	}
	j.super.Incompat = j.feat
	return w, nil
}

// Room is how many blocks a transaction can have at most.
func (w *Writer) Room() int {
	ring := int(w.j.last - w.j.first)
	return ring/4 - w.overhead(ring/4, 0)
}

// TID is the number of the next transaction.
func (w *Writer) TID() uint32 { return w.tid }

// Super is the journal's superblock as it was last written.
func (w *Writer) Super() disk.JournalSuper { return w.j.super }

// overhead is how many blocks a transaction has in the log beside those it logs.
func (w *Writer) overhead(blocks, revokes int) int {
	f, bs := w.j.feat, w.j.loc.BlockSize
	room := bs - disk.JournalHeaderSize
	if f.HasChecksums() {
		room -= disk.JournalTailSize
	}
	tags := (room - 16) / disk.JournalTagSize(f)
	perRevoke := (int(disk.JournalRevokeMax(f, bs)) - disk.JournalRevokeHeaderSize) / disk.JournalRevokeSize(f)
	return (blocks+tags-1)/tags + (revokes+perRevoke-1)/perRevoke + 1
}

// Aborted is the error that ended writing, or nil.
func (w *Writer) Aborted() error { return w.aborted }

// Stop ends writing as a power cut does: the log stays as it is, and the
// journal remembers no error.
func (w *Writer) Stop(err error) {
	if w.aborted == nil {
		w.aborted = err
	}
}

// Abort ends writing: nothing goes to the log or to its places any more. The
// journal remembers errno, a positive number, for whoever comes next.
func (w *Writer) Abort(err error, errno int32) {
	if w.aborted != nil {
		return
	}
	w.aborted = err
	w.j.super.Errno = -errno
	_ = w.putSuper() // the device may be what failed
}

// Commit makes a transaction durable, and with it everything that was written
// to the file system's device before. It returns its number. When it fails, the journal
// is aborted: nobody knows what the device holds now.
func (w *Writer) Commit(t *Transaction) (tid uint32, err error) {
	if w.aborted != nil {
		return 0, w.aborted
	}
	need := uint32(len(t.Blocks) + w.overhead(len(t.Blocks), len(t.Revokes)))
	if ring := w.j.last - w.j.first; need > ring/2 {
		panic(fmt.Sprintf("jbd2: a transaction of %d blocks in a log of %d", need, ring))
	} else if w.used+need+1 > ring {
		if err := w.Checkpoint(); err != nil {
			return 0, err
		}
	}
	tid = w.tid
	if err := w.commit(t, need); err != nil {
		w.Abort(fmt.Errorf("transaction %d: %w", tid, err), errnoEIO)
		return 0, w.aborted
	}
	return tid, nil
}

const errnoEIO = 5

func (w *Writer) commit(t *Transaction, need uint32) error {
	start := w.head
	blocks := slices.SortedFunc(slices.Values(t.Blocks), func(a, b Block) int { return cmp.Compare(a.N, b.N) })
	crc := ^uint32(0)
	if w.empty {
		// The superblock must lead here before the transaction counts. While it does not,
		// the log is still empty.
		w.tail, w.tailTID = start, w.tid
		if err := w.putTail(); err != nil {
			return err
		}
	}
	if err := w.putRevokes(t.Revokes); err != nil {
		return err
	}
	if err := w.putBlocks(blocks, &crc); err != nil {
		return err
	}
	// Where the commit block goes there are zeros first: it has a checksum over all
	// of it, and only its first sector says more. A write of it that arrives
	// in part thus leaves a whole commit block or none.
	end := w.head
	if err := w.log(make([]byte, w.j.loc.BlockSize)); err != nil {
		return err
	}
	if err := w.flushLog(); err != nil {
		return err
	}
	if err := w.barrier(true); err != nil {
		return err
	}
	w.head = end
	if err := w.putCommit(crc); err != nil {
		return err
	}
	if err := w.barrier(false); err != nil {
		return err
	}
	w.empty = false
	w.used += need
	w.tid++
	return w.putHome(blocks)
}

// barrier makes durable what was written to the log, and with data also what was
// written to the file system's device.
func (w *Writer) barrier(data bool) error {
	if data && w.j.loc.External {
		if err := w.home.Flush(); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	if err := w.j.loc.Dev.Flush(); err != nil {
		return fmt.Errorf("flush the journal: %w", err)
	}
	return nil
}

// header starts a block of the log.
func (w *Writer) header(kind disk.JournalBlockType) []byte {
	b := make([]byte, w.j.loc.BlockSize)
	disk.JournalHeader{Magic: disk.JournalMagic, Type: kind, Sequence: w.tid}.Put(b)
	return b
}

func (w *Writer) seal(b []byte) {
	if w.j.feat.HasChecksums() {
		disk.PutJournalTail(b, disk.JournalTailChecksum(w.j.seed, b))
	}
}

func (w *Writer) putRevokes(list []disk.PBlock) error {
	f := w.j.feat
	list = slices.Sorted(slices.Values(list))
	per := (int(disk.JournalRevokeMax(f, w.j.loc.BlockSize)) - disk.JournalRevokeHeaderSize) / disk.JournalRevokeSize(f)
	for part := range slices.Chunk(list, per) {
		b := w.header(disk.JournalRevokeBlock)
		for i, n := range part {
			disk.PutJournalRevoked(f, b, i, n)
		}
		r := disk.DecodeJournalRevokes(b)
		r.Count = uint32(disk.JournalRevokeHeaderSize + len(part)*disk.JournalRevokeSize(f))
		r.Put(b)
		w.seal(b)
		if err := w.log(b); err != nil {
			return err
		}
	}
	return nil
}

// putBlocks writes descriptor blocks, each followed by what it describes.
func (w *Writer) putBlocks(blocks []Block, crc *uint32) error {
	f, bs := w.j.feat, w.j.loc.BlockSize
	room := bs - disk.JournalHeaderSize - 16
	if f.HasChecksums() {
		room -= disk.JournalTailSize
	}
	for part := range slices.Chunk(blocks, room/disk.JournalTagSize(f)) {
		d := w.header(disk.JournalDescriptor)
		off := disk.JournalHeaderSize
		logged := make([][]byte, len(part))
		for i, b := range part {
			tag := disk.JournalTag{Block: b.N}
			logged[i] = b.Data
			if binary.BigEndian.Uint32(b.Data) == disk.JournalMagic {
				// It would be taken for a block of the log itself.
				tag.Flags |= disk.JournalTagEscape
				logged[i] = bytes.Clone(b.Data)
				clear(logged[i][:4])
			}
			tag.Checksum = disk.JournalTagChecksum(f, w.j.seed, w.tid, logged[i])
			if i > 0 {
				tag.Flags |= disk.JournalTagSameUUID
			}
			if i == len(part)-1 {
				tag.Flags |= disk.JournalTagLast
			}
			tag.Put(f, d[off:])
			if off += disk.JournalTagSize(f); i == 0 {
				off += copy(d[off:], w.j.super.UUID[:])
			}
		}
		w.seal(d)
		for _, b := range append([][]byte{d}, logged...) {
			if w.j.hasV1() {
				*crc = disk.CRC32BE(*crc, b)
			}
			if err := w.log(b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) putCommit(crc uint32) error {
	b := w.header(disk.JournalCommit)
	c := disk.DecodeJournalCommit(b)
	now := w.now()
	c.Sec, c.Nsec = max(uint64(max(now.Unix(), 0)), w.last), uint32(now.Nanosecond())
	w.last = c.Sec
	if w.j.hasV1() {
		c.ChecksumType, c.ChecksumSize, c.Checksum[0] = disk.JournalCRC32, disk.JournalCRC32Size, crc
	}
	c.Put(b)
	if w.j.feat.HasChecksums() {
		c.Checksum[0] = disk.JournalCommitChecksum(w.j.seed, b)
		c.Put(b)
	}
	if err := w.log(b); err != nil {
		return err
	}
	return w.flushLog()
}

// log adds a block to the log.
func (w *Writer) log(b []byte) error {
	if len(w.buf) == 0 {
		w.at = w.head
	}
	w.buf = append(w.buf, b...)
	if w.head++; w.head == w.j.last {
		w.head = w.j.first
		return w.flushLog()
	}
	if len(w.buf) >= logWrite {
		return w.flushLog()
	}
	return nil
}

// flushLog writes what was added to the log.
func (w *Writer) flushLog() error {
	bs := w.j.loc.BlockSize
	n, data := w.at, w.buf
	w.buf = w.buf[:0]
	for len(data) > 0 {
		at, run := w.j.loc.run(n, uint32(len(data)/bs))
		if run == 0 {
			return fmt.Errorf("journal block %d: it lies nowhere", n)
		}
		if _, err := w.j.loc.Dev.WriteAt(data[:int(run)*bs], int64(at)*int64(bs)); err != nil {
			return fmt.Errorf("write block %d (journal block %d): %w", at, n, err)
		}
		n, data = n+run, data[int(run)*bs:]
	}
	return nil
}

// run is where journal block n lies, and how many of the blocks from there
// on, at most most, lie behind each other.
func (l *Location) run(n, most uint32) (at disk.PBlock, blocks uint32) {
	for _, e := range l.Extents {
		if n >= e.Block && n-e.Block < e.Len {
			return e.Start + disk.PBlock(n-e.Block), min(most, e.Len-(n-e.Block))
		}
	}
	return 0, 0
}

// putHome writes blocks, in order, to their places.
func (w *Writer) putHome(blocks []Block) error {
	bs := w.j.loc.BlockSize
	buf := make([]byte, 0, min(len(blocks)*bs, logWrite))
	for i := 0; i < len(blocks); {
		first := blocks[i].N
		buf = buf[:0]
		for ; i < len(blocks) && blocks[i].N == first+disk.PBlock(len(buf)/bs) && len(buf) < logWrite; i++ {
			buf = append(buf, blocks[i].Data...)
		}
		if _, err := w.home.WriteAt(buf, int64(first)*int64(bs)); err != nil {
			return fmt.Errorf("write block %d: %w", first, err)
		}
	}
	return nil
}

// Checkpoint makes durable what the transactions have written to their places,
// and lets the log begin behind them. It aborts the journal when it fails.
func (w *Writer) Checkpoint() error {
	if w.aborted != nil {
		return w.aborted
	}
	if w.empty {
		return nil
	}
	err := w.home.Flush()
	if err == nil {
		w.tail, w.tailTID, w.used = w.head, w.tid, 0
		err = w.putTail()
	}
	if err == nil {
		// What comes next overwrites blocks that the log began with until now.
		err = w.barrier(false)
	}
	if err != nil {
		w.Abort(fmt.Errorf("checkpoint: %w", err), errnoEIO)
		return w.aborted
	}
	return nil
}

// Close makes everything durable and marks the journal as empty, so that
// there is nothing to recover. It leaves an aborted journal as it is.
func (w *Writer) Close() error {
	if err := w.home.Flush(); err != nil && w.aborted == nil {
		w.Abort(fmt.Errorf("flush: %w", err), errnoEIO)
	}
	if w.aborted != nil {
		return w.aborted
	}
	w.j.super.Start, w.j.super.Sequence, w.j.super.Head = 0, w.tid, w.head
	err := w.putSuper()
	if err == nil {
		err = w.barrier(false)
	}
	w.empty = true
	w.tail, w.tailTID, w.used = w.head, w.tid, 0
	return err
}

// putTail writes the superblock with where the log begins.
func (w *Writer) putTail() error {
	w.j.super.Start, w.j.super.Sequence, w.j.super.Head = w.tail, w.tailTID, 0
	return w.putSuper()
}

func (w *Writer) putSuper() error {
	j := w.j
	raw := bytes.Clone(j.raw)
	j.super.Put(raw)
	if j.feat.HasChecksums() {
		j.super.Checksum = disk.JournalSuperChecksum(raw)
		j.super.Put(raw)
	}
	blk, _ := j.loc.physical(j.loc.Super)
	if _, err := j.loc.Dev.WriteAt(raw, int64(blk)*int64(j.loc.BlockSize)); err != nil {
		return fmt.Errorf("write the journal's superblock (block %d): %w", blk, err)
	}
	j.raw = raw
	return nil
}
