package simkernel

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// A dentry is a name that the server was asked for, and what it answered.
type dentry struct {
	in    *inode    // nil: there is no such name
	until time.Time // the answer is good
}

type dentryKey struct {
	dir  uint64 // node id
	name string
}

// lookup returns the inode of a name in dir: from the dentry cache, or from the
// server. Each answer of the server's is one to be forgotten.
func (k *Kernel) lookup(c Cred, dir *inode, name string) (*inode, error) {
	key := dentryKey{dir.nodeid, name}
	if k.unrest() {
		k.dropDentries(func(have dentryKey, d dentry) bool { return have == key && !k.isParent(d.in) })
	}
	k.mu.Lock()
	d, ok := k.dentries[key]
	k.mu.Unlock()
	if ok && time.Now().Before(d.until) {
		if d.in == nil {
			return nil, syscall.ENOENT
		}
		return d.in, nil
	}
	out, err := k.call(opLookup, dir.nodeid, c, msg().name(name).b)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) {
			k.forgetName(dir, name)
		}
		return nil, err
	}
	e, err := readEntry(out)
	if err != nil {
		return nil, err
	}
	if e.nodeid == 0 { // a missing name, to be remembered
		k.remember(dir, name, nil, e.valid)
		return nil, syscall.ENOENT
	}
	return k.named(dir, name, e)
}

// named takes the answer that name in dir is e.
func (k *Kernel) named(dir *inode, name string, e entry) (*inode, error) {
	in, err := k.instantiate(e)
	if err == nil {
		k.remember(dir, name, in, e.valid)
	}
	return in, err
}

func (k *Kernel) remember(dir *inode, name string, in *inode, valid time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dentries[dentryKey{dir.nodeid, name}] = dentry{in, time.Now().Add(valid)}
}

// forgetName is what follows when name is no longer what it was: the server is
// asked again.
func (k *Kernel) forgetName(dir *inode, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.dentries, dentryKey{dir.nodeid, name})
}

// moveName is d_move, or d_exchange.
func (k *Kernel) moveName(from *inode, fromName string, to *inode, toName string, exchange bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, b := dentryKey{from.nodeid, fromName}, dentryKey{to.nodeid, toName}
	moved, back := k.dentries[a], k.dentries[b]
	delete(k.dentries, a)
	k.dentries[b] = moved
	if exchange {
		k.dentries[a] = back
	}
}

// isParent reports whether names in the directory in are cached: those hold it.
func (k *Kernel) isParent(in *inode) bool {
	if in == nil || in.typ != syscall.S_IFDIR {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, d := range k.dentries {
		if key.dir == in.nodeid && d.in != nil {
			return true
		}
	}
	return false
}

func (k *Kernel) dropDentries(which func(dentryKey, dentry) bool) {
	k.mu.Lock()
	var found []dentryKey
	for key := range k.dentries {
		found = append(found, key)
	}
	k.mu.Unlock()
	for _, key := range found {
		k.mu.Lock()
		d, ok := k.dentries[key]
		k.mu.Unlock()
		if ok && which(key, d) {
			k.mu.Lock()
			delete(k.dentries, key)
			k.mu.Unlock()
		}
	}
}

// Evict drops every name, and every inode that nobody has open, from the caches: data
// and times are written back, folios dropped, and the server told to forget.
// No call that names files may be under way.
func (k *Kernel) Evict() error {
	k.dropDentries(func(dentryKey, dentry) bool { return true })
	return k.evictUnused()
}

// Shrink drops some names by chance, and the inodes that have none then, as
// memory pressure does. No call that names files may be under way.
func (k *Kernel) Shrink() error {
	k.mu.Lock()
	drop := map[uint64]bool{} // by node id, so that a seed means the same each time
	for _, in := range k.inodes {
		drop[in.nodeid] = false
	}
	k.mu.Unlock()
	for _, in := range k.all() {
		drop[in.nodeid] = k.pick(2) == 0
	}
	k.dropDentries(func(_ dentryKey, d dentry) bool { return (d.in == nil || drop[d.in.nodeid]) && !k.isParent(d.in) })
	return k.evictUnused()
}

func (k *Kernel) evictUnused() error {
	k.mu.Lock()
	held := map[*inode]bool{}
	for key, d := range k.dentries {
		held[k.inodes[key.dir]] = true
		held[d.in] = true
	}
	k.mu.Unlock()
	var first error
	for _, in := range k.all() {
		if held[in] {
			continue
		}
		if err := in.evict(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// Lookups returns how many lookups of each inode in core, by its node id, the
// server has not been told to forget.
func (k *Kernel) Lookups() map[uint64]uint64 {
	out := map[uint64]uint64{}
	for _, in := range k.all() {
		if in.nodeid != rootID {
			in.mu.Lock()
			out[in.nodeid] = in.nlookup
			in.mu.Unlock()
		}
	}
	return out
}

func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

// walkTo returns the inode that path names, without following a symbolic link.
func (k *Kernel) walkTo(c Cred, path string) (*inode, error) {
	k.mu.Lock()
	in := k.inodes[rootID]
	k.mu.Unlock()
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		if in.typ != syscall.S_IFDIR {
			return nil, fmt.Errorf("%s: %w", path, syscall.ENOTDIR)
		}
		var err error
		if in, err = k.lookup(c, in, name); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// parent returns the directory of path and the last name of it.
func (k *Kernel) parent(c Cred, path string) (*inode, string, error) {
	dir, name := split(path)
	in, err := k.walkTo(c, dir)
	if err == nil && in.typ != syscall.S_IFDIR {
		err = syscall.ENOTDIR
	}
	return in, name, err
}
