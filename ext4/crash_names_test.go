package ext4

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"e4go/ext4/disk"
)

// fallocate does what fallocate(2) does, where that changes no more than the
// bytes of the range and the size.
func (r *crashRun) fallocate(path string, mode FallocMode, off, n int64) {
	r.t.Helper()
	id := r.now().names[path]
	r.step(fmt.Sprintf("fallocate %s %#x %d+%d", path, uint32(mode), off, n), func(s *modelState) {
		file := *s.nodes[id]
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
	}, func() error { return r.fs.Fallocate(context.Background(), Root, r.ino(path), mode, off, n) })
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
	switch r.rng.IntN(7) {
	case 0, 1:
		id := r.newID()
		r.step("create "+at, func(s *modelState) {
			s.names[at] = id
			s.set(modelNode{id: id, mode: disk.ModeReg | 0o600})
		}, func() error {
			_, err := r.fs.Create(ctx, Root, parent, name, disk.ModeReg|0o600)
			return err
		})
	case 2:
		id := r.newID()
		r.step("mkdir "+at, func(s *modelState) {
			s.names[at] = id
			s.set(modelNode{id: id, mode: disk.ModeDir | 0o700})
		}, func() error {
			_, err := r.fs.Mkdir(ctx, Root, parent, name, disk.ModeDir|0o700)
			return err
		})
	case 3:
		id, target := r.newID(), strings.Repeat("t", 1+r.rng.IntN(200))
		r.step("symlink "+at, func(s *modelState) {
			s.names[at] = id
			s.set(modelNode{id: id, mode: disk.ModeLink | 0o777, data: []byte(target)})
		}, func() error {
			_, err := r.fs.Symlink(ctx, Root, parent, name, target)
			return err
		})
	case 4:
		if old := r.pick(others); r.now().node(old).mode.Type() == disk.ModeReg {
			r.step("link "+old+" "+at, func(s *modelState) { s.names[at] = s.names[old] },
				func() error { return r.fs.Link(ctx, Root, r.ino(old), parent, name) })
		}
	case 5: // rename a file, perhaps over another
		old := r.pick(others)
		if r.rng.IntN(2) == 0 {
			at = r.pick(others)
		}
		if r.now().names[old] != r.now().names[at] {
			r.rename(old, at, 0)
		}
	case 6:
		a, b := r.pick(others), r.pick(others)
		if r.now().names[a] != r.now().names[b] {
			r.rename(a, b, RenameExchange)
		}
	}
}

func (r *crashRun) rename(old, at string, flags uint) {
	r.t.Helper()
	r.step(fmt.Sprintf("rename %s %s %d", old, at, flags), func(s *modelState) {
		a, b := s.names[old], s.names[at]
		s.names[at] = a
		if flags&RenameExchange != 0 {
			s.names[old] = b
		} else {
			delete(s.names, old)
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
