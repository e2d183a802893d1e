package fsck_test

import (
	"fmt"

	"e4go/ext4/fsck"
)

// placeText is where a problem is, for messages of tests.
func placeText(p *fsck.Place) string {
	s := ""
	if p.InGroup {
		s += fmt.Sprintf("group %d ", p.Group)
	}
	if p.Dir != 0 {
		s += fmt.Sprintf("entry %q of %d ", p.Name, p.Dir)
	}
	if p.Ino != 0 {
		s += fmt.Sprintf("inode %d ", p.Ino)
	}
	if p.Path != "" {
		s += p.Path + " "
	}
	if p.OnBlock {
		s += fmt.Sprintf("block %d+%#x ", p.Block, p.Off)
	}
	return s
}
