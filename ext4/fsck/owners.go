package fsck

import (
	"cmp"
	"slices"
	"sync"

	"e4go/ext4/disk"
)

// Pass 1B: when blocks are claimed by several, all maps are walked once more, to
// find who claims them.

// share is a run of clusters that several claim, as one owner has it.
type share struct {
	first, n uint64
	ino      disk.Ino // 0: the file system's metadata
}

// ownerSearch collects shares.
type ownerSearch struct {
	mu      sync.Mutex
	shares  []share // guarded by mu
	visited *bitset // blocks of maps that were followed; shared by the workers
}

// maxShares bounds the memory of the search.
const maxShares = 1 << 20

// findOwners tells who claims the blocks that more than one claims.
func (c *checker) findOwners() error {
	if _, any := c.again.next(0); !any {
		return nil
	}
	s := &ownerSearch{visited: newBitset(c.clusters())}
	c.revisits.Store(c.mayRevisit())
	var cursor tableCursor
	err := c.workers(c.pieces(), func(w *worker) error {
		var found []share
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.shares = append(s.shares, found...)
		}()
		for {
			p, ok := cursor.take(c)
			if !ok || w.stopped() {
				return nil
			}
			err := w.table(p, func(ino disk.Ino, raw []byte, blk disk.PBlock, off int) error {
				return w.sharesOf(s, &found, ino, raw, Place{Ino: ino, Block: blk, Off: off})
			})
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	s.metadata(c)
	c.tellShares(s.shares)
	return nil
}

// sharesOf adds what inode ino has of the shared clusters to found.
func (w *worker) sharesOf(s *ownerSearch, found *[]share, ino disk.Ino, raw []byte, at Place) error {
	c := w.c
	if zero(raw) || ino == disk.BadIno || !c.inodes.used.has(uint64(ino)) {
		return nil
	}
	w.inode.ino, w.inode.raw, w.inode.at = ino, raw, at
	w.inode.in = disk.DecodeInode(raw)
	in := &w.inode.in
	add := func(first, n uint64) {
		c.again.runs(first, min(first+n, c.clusters()), func(first, n uint64) bool {
			if k := len(*found) - 1; k >= 0 && (*found)[k].ino == ino && (*found)[k].first+(*found)[k].n == first {
				(*found)[k].n += n
			} else if len(*found) < maxShares/c.opts.Workers {
				*found = append(*found, share{first, n, ino})
			} else {
				return false
			}
			return true
		})
	}
	if b := in.XattrBlock(&c.sb); b != 0 && c.legal(b) && c.sb.Compat.Has(disk.CompatExtAttr) {
		add(c.cluster(b), 1)
	}
	inline := in.Flags.Has(disk.FlagInlineData) && c.sb.Incompat.Has(disk.IncompatInlineData)
	if inline || !w.hasBlocks() {
		return nil
	}
	m := w.walkMap(ino, in, at)
	m.quiet = true
	m.claim = func(first, n uint64, node bool) bool {
		if ino == disk.ResizeIno && !c.ownsResize(in, first) {
			return false
		}
		add(first, n)
		return node && first < s.visited.n && s.visited.add(first)
	}
	return m.walk()
}

// metadata adds the file system's own share.
func (s *ownerSearch) metadata(c *checker) {
	c.again.runs(0, c.clusters(), func(first, n uint64) bool {
		c.meta.runs(first, first+n, func(first, n uint64) bool {
			s.shares = append(s.shares, share{first, n, 0})
			return len(s.shares) < 2*maxShares
		})
		return true
	})
}

// tellShares makes a problem of each set of owners, with the blocks they share.
func (c *checker) tellShares(shares []share) {
	type edge struct {
		at  uint64
		end bool
		ino disk.Ino
	}
	edges := make([]edge, 0, 2*len(shares))
	for _, s := range shares {
		edges = append(edges, edge{s.first, false, s.ino}, edge{s.first + s.n, true, s.ino})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.ino, b.ino))
	})
	// Of the clusters behind edge i, with repetitions; further ones are only counted.
	var owners []disk.Ino
	others := 0
	problems := map[string]*Problem{}
	for i := 0; i < len(edges); {
		at := edges[i].at
		for ; i < len(edges) && edges[i].at == at; i++ {
			e := edges[i]
			k, found := slices.BinarySearch(owners, e.ino)
			switch {
			case !e.end && len(owners) < maxOwners:
				owners = slices.Insert(owners, k, e.ino)
			case !e.end:
				others++
			case found:
				owners = slices.Delete(owners, k, k+1)
			default:
				others--
			}
		}
		if i < len(edges) && len(owners) > 0 {
			c.addShare(problems, owners, at, edges[i].at-at)
		}
	}
	for _, p := range problems {
		p.classes = c.shareClasses(p)
		c.rep.add(blocksShared, *p)
	}
}

// addShare adds n clusters from first on to the problem of their owners.
func (c *checker) addShare(problems map[string]*Problem, owners []disk.Ino, first, n uint64) {
	key := make([]byte, 0, 4*len(owners))
	for _, ino := range owners {
		key = append(key, byte(ino), byte(ino>>8), byte(ino>>16), byte(ino>>24))
	}
	p := problems[string(key)]
	if p == nil {
		if len(problems) > maxOfKind {
			return
		}
		p = &Problem{}
		for i, ino := range owners {
			if i == 0 || owners[i-1] != ino {
				p.Owners = append(p.Owners, Owner{Ino: ino})
			}
		}
		p.Place = Place{Ino: owners[len(owners)-1], Block: c.clusterBlock(first), OnBlock: true}
		problems[string(key)] = p
	}
	p.Number += n << c.cbits
	from := uint64(c.clusterBlock(first))
	to := from + n<<c.cbits - 1
	switch k := len(p.Ranges) - 1; {
	case k >= 0 && p.Ranges[k].Last+1 == from:
		p.Ranges[k].Last = to
	case k+1 < maxRanges:
		p.Ranges = append(p.Ranges, Range{First: from, Last: to})
	default:
		p.More++
	}
}

// shareClasses are the classes by which e2fsck tells of shared blocks. Whether
// single blocks or ranges are told, and of which files, depends on how a file's
// blocks lie in it, not on the blocks alone.
func (c *checker) shareClasses(p *Problem) []Class {
	classes := []Class{0x011001, 0x011002, 0x011006, 0x011008, 0x011003, 0x013001, 0x013002, 0x013004, 0x013005, 0x013006, 0x013007}
	if p.Owners[0].Ino == 0 {
		classes = append(classes, 0x013003)
	}
	return classes
}
