package ext4

import (
	"fmt"

	"e4go/ext4/disk"
)

// HasInlineData reports whether the inode holds its contents itself.
func (in *Inode) HasInlineData() bool {
	return in.fs.sb.Incompat.Has(disk.IncompatInlineData) && in.disk.Flags.Has(disk.FlagInlineData)
}

// InlineData returns the contents that stand in the inode: the 60 bytes of
// i_block and the value of the xattr system.data behind them, cut at the size
// for files. It fails with a *disk.CorruptError if the xattr is missing or broken.
func (in *Inode) InlineData() (data []byte, err error) {
	err = in.stable(func(now *Inode) (err error) {
		data, err = now.inlineData()
		return err
	})
	return data, err
}

func (in *Inode) inlineData() ([]byte, error) {
	data, err := in.inlineParts()
	if err != nil {
		return nil, err
	}
	all := append(append([]byte(nil), data[0]...), data[1]...)
	if in.Type() != disk.ModeDir && int64(len(all)) > in.Size() {
		all = all[:in.Size()]
	}
	return all, nil
}

// inlineParts returns i_block and what continues it.
func (in *Inode) inlineParts() ([2][]byte, error) {
	p, ok := disk.XattrIbodyPlace(in.ino, in.raw, in.block, in.off)
	if ok {
		list, err := p.Xattrs()
		for _, x := range list {
			if x.Index == disk.XattrSystem && string(x.Name) == disk.InlineDataName && x.ValueIno == 0 {
				return [2][]byte{in.disk.Block[:], x.Value}, nil
			}
		}
		if err != nil {
			return [2][]byte{}, err
		}
	}
	return [2][]byte{}, &disk.CorruptError{
		Struct: "inode", Num: uint64(in.ino), Block: in.block, Off: in.off + 0x20, Field: "i_flags",
		Have: fmt.Sprintf("%#x, with inline_data", uint32(in.disk.Flags)), Want: "an xattr system.data in the inode",
	}
}
