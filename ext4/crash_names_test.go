package ext4

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"e4go/ext4/disk"

	"golang.org/x/sys/unix"
)

// fallocate does what fallocate(2) does, where that changes no more than the
// bytes of the range and the size.
func (r *crashRun) fallocate(path string, mode FallocMode, off, n int64) {
	r.t.Helper()
	id := r.now().names[path]
	r.step(fmt.Sprintf("fallocate %s %#x %d+%d", path, uint32(mode), off, n), func(s *modelState) {
		file := s.nodes[id].changed()
		size := int64(len(file.data))
		if mode&FallocKeepSize == 0 && off+n > size {
			file = file.truncate(off + n)
			s.part = &modelWrite{id, off, off + n} // long ones grow in steps
		}
		if mode&(FallocPunchHole|FallocZeroRange) != 0 {
			file.data = slices.Clone(file.data)
			clear(file.data[min(off, int64(len(file.data))):min(off+n, int64(len(file.data)))])
		}
		s.set(file)
	}, func() error { return r.tryFallocate(path, mode, off, n) })
}

func (r *crashRun) tryFallocate(path string, mode FallocMode, off, n int64) error {
	err := r.fs.Fallocate(context.Background(), Root, r.ino(path), mode, off, n)
	if errors.Is(err, unix.EOPNOTSUPP) { // the file has no extents
		return errNotDone
	}
	return err
}

// shift takes a range out of a file, or puts a hole into it.
func (r *crashRun) shift(path string, out bool) {
	r.t.Helper()
	id, unit := r.now().names[path], int64(r.fs.sb.BlockSize())<<r.fs.sb.ClusterBits()
	size := int64(len(r.now().nodes[id].data))
	off, n := r.rng.Int64N(size/unit+1)*unit, (1+r.rng.Int64N(8))*unit
	mode, by, what := FallocMode(FallocInsertRange), n, "insert"
	if out {
		mode, by, what = FallocCollapseRange, -n, "collapse"
	}
	if off >= size || out && off+n >= size {
		return
	}
	r.step(fmt.Sprintf("%s %s %d+%d", what, path, off, n), func(s *modelState) {
		s.set(s.nodes[id].shift(off, by))
	}, func() error { return r.tryFallocate(path, mode, off, n) })
}

// copy copies a range of the file to another, or to another place in it.
func (r *crashRun) copy(from string) {
	r.t.Helper()
	to, _ := r.file()
	src, dst := r.now().node(from), r.now().names[to]
	size := int64(len(src.data))
	off, at := r.rng.Int64N(size+1), r.rng.Int64N(100_000)
	n := min(r.rng.Int64N(40_000), size-off)
	if n == 0 || src.id == dst && off < at+n && at < off+n {
		return
	}
	r.step(fmt.Sprintf("copy %s %d+%d %s %d", from, off, n, to, at), func(s *modelState) {
		s.set(s.nodes[dst].write(at, src.data[off:off+n]))
		s.part = &modelWrite{dst, at, at + n}
	}, func() error {
		k, err := r.fs.CopyRange(context.Background(), Root, r.ino(from), off, r.ino(to), at, n)
		if err == nil && k != n {
			err = fmt.Errorf("copied %d bytes", k)
		}
		return err
	})
}

// paths are those of the current state that keep agrees to, in order.
func (r *crashRun) paths(keep func(p string, n *modelNode) bool) []string {
	var out []string
	s := r.now()
	for _, p := range slices.Sorted(maps.Keys(s.names)) {
		if keep(p, s.node(p)) {
			out = append(out, p)
		}
	}
	return out
}

func (r *crashRun) pick(list []string) string { return list[r.rng.IntN(len(list))] }

func (r *crashRun) newID() int {
	r.nextID++
	return r.nextID
}

// randomName does one operation on names.
func (r *crashRun) randomName() {
	r.t.Helper()
	ctx := context.Background()
	dirs := r.paths(func(_ string, n *modelNode) bool { return n.mode.Type() == disk.ModeDir })
	others := r.paths(func(_ string, n *modelNode) bool { return n.mode.Type() != disk.ModeDir })
	dir := r.pick(dirs)
	name := fmt.Sprintf("n%d%s", r.rng.IntN(12), strings.Repeat("-long", 40*r.rng.IntN(2)))
	at := path.Join(dir, name)
	if r.now().node(at) != nil { // then it goes
		r.remove(at)
		return
	}
	parent := r.ino(dir)
	make := func(what string, mode disk.Mode, data []byte, do func() (*Inode, error)) {
		r.t.Helper()
		id := r.newID()
		r.step(what+" "+at, func(s *modelState) {
			n := s.create(at, id, mode)
			n.data = data
			s.names[at] = id
			s.set(n)
		}, func() error {
			_, err := do()
			return err
		})
	}
	switch r.rng.IntN(10) {
	case 0, 1:
		mode := disk.ModeReg | []disk.Mode{0o600, 0o644, 0o777}[r.rng.IntN(3)]
		make("create", mode, nil, func() (*Inode, error) { return r.fs.Create(ctx, Root, parent, name, mode) })
	case 2:
		mode := disk.ModeDir | []disk.Mode{0o700, 0o775}[r.rng.IntN(2)]
		make("mkdir", mode, nil, func() (*Inode, error) { return r.fs.Mkdir(ctx, Root, parent, name, mode) })
	case 3:
		target := strings.Repeat("t", 1+r.rng.IntN(200))
		make("symlink", disk.ModeLink|0o777, []byte(target), func() (*Inode, error) { return r.fs.Symlink(ctx, Root, parent, name, target) })
	case 4:
		r.mknod(parent, at)
	case 5:
		r.tmpfile(parent, at)
	case 6:
		if old := r.pick(others); r.now().node(old).mode.Type() == disk.ModeReg {
			r.step("link "+old+" "+at, func(s *modelState) { s.names[at] = s.names[old] },
				func() error { return r.fs.Link(ctx, Root, r.ino(old), parent, name) })
		}
	default: // of any file or directory, perhaps over another
		all := r.paths(func(p string, _ *modelNode) bool { return p != "/" })
		old := r.pick(all)
		if r.rng.IntN(2) == 0 {
			at = r.pick(all)
		}
		r.rename(old, at, []uint{0, 0, RenameNoreplace, RenameExchange, RenameExchange, RenameWhiteout}[r.rng.IntN(6)])
	}
}

// mknod makes what is neither a file nor a directory nor a link.
func (r *crashRun) mknod(parent disk.Ino, at string) {
	r.t.Helper()
	id := r.newID()
	mode := []disk.Mode{disk.ModeFIFO, disk.ModeSocket, disk.ModeChar, disk.ModeBlock}[r.rng.IntN(4)] | 0o640
	var dev [2]uint32
	if t := mode.Type(); t == disk.ModeChar || t == disk.ModeBlock {
		dev = [2]uint32{uint32(r.rng.IntN(4000)), uint32(r.rng.IntN(70_000))}
	}
	r.step("mknod "+at, func(s *modelState) {
		n := s.create(at, id, mode)
		n.dev = dev
		s.names[at] = id
		s.set(n)
	}, func() error {
		_, err := r.fs.Mknod(context.Background(), Root, parent, path.Base(at), mode, dev[0], dev[1])
		return err
	})
}

// tmpfile makes a file without a name, writes to it, and perhaps gives it one.
func (r *crashRun) tmpfile(parent disk.Ino, at string) {
	r.t.Helper()
	ctx, same := context.Background(), func(*modelState) {}
	id, named := r.newID(), r.rng.IntN(3) > 0
	n := r.now().create(at, id, disk.ModeReg|0o644)
	n.data = pattern(id, len(r.states), 0, 1+r.rng.IntN(20_000))
	var in *Inode
	r.step("tmpfile for "+at, same, func() (err error) {
		in, err = r.fs.Tmpfile(ctx, Root, parent, disk.ModeReg|0o644)
		return err
	})
	r.step(fmt.Sprintf("write to it %d", len(n.data)), same, func() error {
		_, err := r.fs.WriteAt(ctx, Root, in.Ino(), n.data, 0)
		return err
	})
	if r.rng.IntN(2) == 0 {
		r.sync()
	}
	if named {
		r.step("link it "+at, func(s *modelState) {
			s.names[at] = id
			s.set(n)
		}, func() error { return r.fs.Link(ctx, Root, in.Ino(), parent, path.Base(at)) })
	}
	r.step("release it", same, func() error { return r.fs.Release(ctx, in.Ino()) })
}

// rename does a rename that has to go well, and no other.
func (r *crashRun) rename(old, at string, flags uint) {
	r.t.Helper()
	s := r.now()
	a, b := s.node(old), s.node(at)
	exchange := flags&RenameExchange != 0
	isDir := func(n *modelNode) bool { return n.mode.Type() == disk.ModeDir }
	switch {
	case old == at, strings.HasPrefix(at, old+"/"), strings.HasPrefix(old, at+"/"), b != nil && a.id == b.id:
		return
	case b == nil && exchange, b != nil && flags&RenameNoreplace != 0:
		return
	case b != nil && !exchange && (isDir(a) != isDir(b) || len(s.under(at)) > 0):
		return
	}
	hole := r.newID()
	r.step(fmt.Sprintf("rename %s %s %d", old, at, flags), func(s *modelState) {
		const aside = "\x00"
		if exchange {
			s.move(at, aside)
		}
		s.move(old, at)
		if exchange {
			s.move(aside, old)
		}
		if flags&RenameWhiteout != 0 {
			s.names[old] = hole
			s.set(s.create(old, hole, disk.ModeChar))
		}
	}, func() error {
		return r.fs.Rename(context.Background(), Root, r.ino(path.Dir(old)), path.Base(old), r.ino(path.Dir(at)), path.Base(at), flags)
	})
}

// remove removes a name, of a file that is perhaps open and written to once more.
func (r *crashRun) remove(at string) {
	r.t.Helper()
	ctx := context.Background()
	parent, name, n := r.ino(path.Dir(at)), path.Base(at), r.now().node(at)
	if n.mode.Type() == disk.ModeDir {
		if len(r.paths(func(p string, _ *modelNode) bool { return strings.HasPrefix(p, at+"/") })) == 0 {
			r.step("rmdir "+at, func(s *modelState) { delete(s.names, at) }, func() error { return r.fs.Rmdir(ctx, Root, parent, name) })
		}
		return
	}
	ino := r.ino(at)
	open := n.mode.Type() == disk.ModeReg && r.rng.IntN(2) == 0
	r.step("unlink "+at, func(s *modelState) { delete(s.names, at) }, func() error {
		if !open {
			return r.fs.Unlink(ctx, Root, parent, name)
		}
		if err := r.fs.Open(ino); err != nil {
			return err
		}
		return r.fs.Unlink(ctx, Root, parent, name)
	})
	if open {
		if r.rng.IntN(2) == 0 {
			r.sync()
		}
		r.step("release "+at, func(*modelState) {}, func() error { return r.fs.Release(ctx, ino) })
	}
}
