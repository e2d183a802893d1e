package mkfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
)

// A Result says what was made.
type Result struct {
	Super   disk.Superblock
	Content *[sha256.Size]byte // of all names, attributes and contents, after HashContents
	Phases  []Phase
}

// A Phase is a part of the work and how long it took.
type Phase struct {
	Name string
	Time time.Duration
}

// Make writes the file system that p describes to dev, filled from the
// sources, the first first. All of dev's bytes from the start of the file system
// to its end may be written.
func Make(ctx context.Context, dev blockdev.Device, p *Params, sources ...Source) (*Result, error) {
	f, err := NewBuilder(p.o, nil)
	if err != nil {
		return nil, err
	}
	return f.Write(ctx, dev, p, sources...)
}

// Write writes the file system that p describes to dev, with what was scanned
// and then what the sources have.
func (f *Builder) Write(ctx context.Context, dev blockdev.Device, p *Params, sources ...Source) (*Result, error) {
	r := &Result{}
	begin := time.Now()
	phase := func(name string) {
		r.Phases = append(r.Phases, Phase{name, time.Since(begin)})
		begin = time.Now()
	}
	v, err := newVolume(p, dev)
	if err != nil {
		return nil, err
	}
	f.v, f.o = v, &p.o
	f.w = newDataWriter(v)
	defer f.w.close()
	phase("layout")
	f.ahead = newReadAhead(f)
	defer f.ahead.close()
	if len(sources) == 1 && f.t.nodes.n == uint64(f.first) {
		// Nothing else replaces what is in a directory, and its order is that of the tree.
		_, f.direct = sources[0].(*DirSource)
	}
	for _, s := range sources {
		if err := f.addAll(ctx, s); err != nil {
			return nil, err
		}
	}
	f.t.sort()
	if err := f.contents(ctx); err != nil {
		return nil, err
	}
	if err := f.w.close(); err != nil {
		return nil, err
	}
	phase("contents")
	f.date()
	f.identify(f.digest(false))
	if f.sums.contents {
		sum := f.digest(true)
		r.Content = &sum
	}
	if err := f.finish(ctx); err != nil {
		return nil, err
	}
	phase("metadata")
	r.Super = v.sb
	return r, nil
}

// root makes the directories that every file system has.
func (f *Builder) root() error {
	n := f.t.node(rootNode)
	n.uid, n.gid = f.o.RootUID, f.o.RootGID
	if f.o.RootPerms != nil {
		n.mode = disk.ModeDir | disk.Mode(*f.o.RootPerms)&disk.ModePerm
	}
	id, err := f.t.add(rootNode, []byte("lost+found"))
	if err != nil {
		return err
	}
	f.t.node(id).mode = disk.ModeDir | 0o700
	if f.o.RootSELinux != "" {
		n := f.t.node(rootNode)
		n.xattrs, err = f.t.xattrSet([]Xattr{{selinux, append([]byte(f.o.RootSELinux), 0)}})
	}
	return err
}

// date gives the file system its time, and that to what has none of its own.
func (f *Builder) date() {
	t := max(0, min(f.newest, maxTime))
	sb := &f.v.sb
	if !f.o.Time.IsZero() {
		t = f.o.Time.Unix()
		sb.Wtime = t
	} // else it was never written: e2fsck does not like a time of writing that is to come
	sb.MkfsTime, sb.LastCheck = t, t
	if in := f.v.builtin.journalIn; in != nil {
		f.v.dateInode(in)
	}
	f.t.walk(func(id nodeID) error {
		if n := f.t.node(id); n.state&nodeExplicit == 0 {
			n.mtime = t
		}
		return nil
	})
}

// contents writes the contents that could wait.
func (f *Builder) contents(ctx context.Context) error {
	err := f.t.walk(func(id nodeID) error {
		n := f.t.node(id)
		if n.state&nodeWaits == 0 {
			return nil
		}
		c := f.keptContent(id)
		n.state &^= nodeWaits
		n.detail = 0
		return f.ahead.write(ctx, id, c)
	})
	if err != nil {
		return err
	}
	return f.ahead.finish(ctx)
}

// identify gives the file system the UUID and the hash seed that were asked
// for, or derives them from what it holds.
func (f *Builder) identify(digest [sha256.Size]byte) {
	o := *f.o
	o.UUID, o.HashSeed, o.Time, o.Zeroed = nil, nil, o.Time.UTC(), false
	options, err := json.Marshal(struct {
		Options Options
		Size    uint64
	}{o, f.v.sb.Blocks})
	if err != nil {
		panic("mkfs: " + err.Error()) // all fields can be marshalled
	}
	derive := func(what string) UUID {
		h := sha256.New()
		fmt.Fprintf(h, "e4go mkfs %s\n", what)
		h.Write(options)
		h.Write(digest[:])
		u := UUID(h.Sum(nil)[:16])
		u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8: made by rules of our own
		return u
	}
	sb := &f.v.sb
	if o := f.v.p.uuid; o != nil {
		sb.UUID = *o
	} else {
		sb.UUID = derive("uuid")
	}
	seed := f.v.p.hashSeed
	if seed == nil {
		u := derive("hash seed")
		seed = &u
	}
	for i := range sb.HashSeed {
		sb.HashSeed[i] = binary.LittleEndian.Uint32(seed[4*i:])
	}
	if sb.Incompat.Has(disk.IncompatCsumSeed) {
		sb.ChecksumSeed = disk.CRC32C(^uint32(0), sb.UUID[:])
	}
}
