package fsck

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"e4go/ext4/disk"
)

// A Report is what a check found.
type Report struct {
	Super       disk.Superblock // the one in use, after replay
	SuperOffset int64           // and where it is, in bytes
	Replayed    bool            // the journal was replayed in memory
	Problems    []*Problem      // by pass and place; those that follow from another stand under it
	Left        uint64          // problems that were found and not kept, as there were too many
	Stats       Stats
	Times       [passes]time.Duration // by pass
	Cancelled   bool                  // the check was ended early
}

// Stats counts what is in the file system.
type Stats struct {
	Inodes, UsedInodes  uint64 // the reserved ones are in use
	Blocks, UsedBlocks  uint64 // what lies before the first data block is in use
	Files, Directories  uint64
	CharDevs, BlockDevs uint64
	FIFOs, Sockets      uint64
	Symlinks            uint64
	FastSymlinks        uint64 // of those, with the target in the inode
	Links               uint64 // entries of directories beyond the first for a file
	BadBlocks           uint64
	LargeFiles          uint64 // of 2 GiB and more
	FragmentedFiles     uint64
	FragmentedDirs      uint64
	Indirect            [3]uint64 // inodes with single, double and triple indirect blocks
	ExtentDepth         [6]uint64 // inodes by the depth of their extent tree
}

// Count is how many problems have the severity, those that follow from others included.
func (r *Report) Count(s Severity) (n int) {
	for _, p := range r.Problems {
		n += p.count(s)
	}
	return n
}

func (p *Problem) count(s Severity) (n int) {
	if p.Severity == s {
		n = 1
	}
	for _, f := range p.Follows {
		n += f.count(s)
	}
	return n
}

// Damaged reports whether the file system is damaged.
func (r *Report) Damaged() bool { return r.Left > 0 || r.Count(Error) > 0 }

// What is kept of the problems, so that an image made of nothing else does
// not fill the memory.
const (
	maxProblems = 20_000 // in all
	maxOfKind   = 4_000
	maxRanges   = 4_000 // of one problem
	maxOwners   = 1_000
)

// A reporter collects problems, from any goroutine.
type reporter struct {
	mu     sync.Mutex
	list   []*Problem    // guarded by mu
	ofKind map[*Kind]int // guarded by mu: how many, kept or not
	left   uint64        // guarded by mu: of Error severity, not kept
}

func (r *reporter) add(k *Kind, p Problem) *Problem {
	p.Kind = k
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ofKind == nil {
		r.ofKind = make(map[*Kind]int)
	}
	r.ofKind[k]++
	if r.ofKind[k] > maxOfKind || len(r.list) >= maxProblems {
		if k.Severity == Error {
			r.left++
		}
		return &p
	}
	r.list = append(r.list, &p)
	return &p
}

// sorted returns the problems by pass and place.
func (r *reporter) sorted() []*Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make(map[*Kind]int, len(kinds))
	for i, k := range kinds {
		rows[k] = i
	}
	slices.SortStableFunc(r.list, func(a, b *Problem) int {
		return cmp.Or(
			cmp.Compare(a.Pass, b.Pass),
			cmp.Compare(a.Place.subject(), b.Place.subject()),
			cmp.Compare(a.Place.Group, b.Place.Group),
			cmp.Compare(a.Place.LBlock, b.Place.LBlock),
			cmp.Compare(a.Place.Block, b.Place.Block),
			cmp.Compare(a.Place.Off, b.Place.Off),
			cmp.Compare(rows[a.Kind], rows[b.Kind]),
			strings.Compare(a.Have, b.Have),
			strings.Compare(a.Want, b.Want),
		)
	})
	return r.list
}

// subject is the inode that a problem is told of.
func (p *Place) subject() disk.Ino {
	if p.Dir != 0 {
		return p.Dir
	}
	return p.Ino
}
