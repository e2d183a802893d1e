package fsck

import (
	"cmp"
	"errors"
	"hash/maphash"
	"slices"

	"e4go/ext4/disk"
)

// cryptRun is a run of encrypted inodes with one policy.
type cryptRun struct {
	first, last disk.Ino
	policy      uint64
}

// Policies that are none, or not known. Others are hashes.
const (
	noPolicy = iota
	unknownPolicy
	firstPolicy
)

var policySeed = maphash.MakeSeed()

// checkEncryption finds the policy of the inode at hand, which is encrypted
// (add_encrypted_file).
func (w *worker) checkEncryption() error {
	s := &w.inode
	context, problem := w.ibodyValue(disk.XattrEncryption, disk.CryptXattrName)
	if problem != "" {
		var err error
		if context, err = w.blockValue(disk.XattrEncryption, disk.CryptXattrName); err != nil {
			return err
		}
		if context == nil {
			w.problem(cryptMissing, 0x20, "", "")
			return nil
		}
	}
	policy, known, ok := disk.CryptPolicy(context)
	id := uint64(unknownPolicy)
	switch {
	case !ok:
		w.problem(cryptDamaged, 0x20, dec(len(context))+" bytes of version "+dec(first(context)), "")
		return nil
	case known:
		id = maphash.Bytes(policySeed, policy) | firstPolicy
	}
	l := &w.lists.crypt
	if n := len(*l) - 1; n >= 0 && (*l)[n].last+1 == s.ino && (*l)[n].policy == id {
		(*l)[n].last++
	} else {
		*l = append(*l, cryptRun{s.ino, s.ino, id})
	}
	return nil
}

// first is the first byte of b, 0 if there is none.
func first(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// blockValue returns the value of an xattr in the block of the inode at hand, nil
// if there is none to be found.
func (w *worker) blockValue(index disk.XattrIndex, name string) ([]byte, error) {
	c, s := w.c, &w.inode
	blk := s.in.XattrBlock(&c.sb)
	if blk == 0 || !c.legal(blk) {
		return nil, nil
	}
	b, err := w.block(blk)
	if errors.Is(err, errBeyond) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if disk.DecodeXattrHeader(b).Magic != disk.XattrMagic {
		return nil, nil
	}
	if c.sb.MetadataCsum() && disk.DecodeXattrHeader(b).Checksum != disk.XattrBlockChecksum(c.seed, blk, b) {
		return nil, nil // told of when the block is checked
	}
	list, err := disk.XattrBlockPlace(s.ino, b, blk).Xattrs()
	if err != nil {
		return nil, nil // likewise
	}
	for _, x := range list {
		if x.Index == index && string(x.Name) == name && x.ValueIno == 0 {
			return x.Value, nil
		}
	}
	return nil, nil
}

// policyOf is the policy of inode ino, noPolicy if it is not encrypted.
func (c *checker) policyOf(ino disk.Ino) uint64 {
	l := c.scan.crypt
	i, ok := slices.BinarySearchFunc(l, ino, func(r cryptRun, ino disk.Ino) int { return cmp.Compare(r.first, ino) })
	if ok {
		return l[i].policy
	}
	if i > 0 && ino <= l[i-1].last {
		return l[i-1].policy
	}
	return noPolicy
}
