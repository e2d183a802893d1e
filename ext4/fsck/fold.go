package fsck

import (
	"e4go/ext4/disk"
)

// fold puts problems that follow from another under it. What follows is still
// there, counted and shown on demand: a wrong guess hides nothing.
//
//	the checksum of an inode        other problems of that inode
//	a map that breaks off           i_blocks and i_size of the inode; blocks that the bitmap marks in vain
//	an index                        what else is wrong with the index of that directory
//	a feature that is not set       other inodes and entries that want it
//	the superblock's checksum       all other checksums
//	a directory that breaks off     inodes without an entry, directories without a parent, link counts
//	a bitmap                        its checksum, the counts of its group
//	a group of unused inodes        all entries that name one of them
//	descriptors from a backup       all counts of groups
//	the number of the orphan file   what that inode lacks, and the entries that lead to it
//	a device that is too small      what cannot be read, and what that is missed for
func fold(problems []*Problem) []*Problem {
	f := folder{bySubject: map[disk.Ino]*Problem{}, byGroup: map[disk.Group]*Problem{}, causes: map[*Problem]*Problem{}}
	f.find(problems)
	for _, p := range problems {
		cause := f.cause(p)
		if cause == nil && missedBehindEnd[p.Kind] {
			cause = f.short
		}
		if cause != nil && cause != p && cause.Severity >= p.Severity {
			f.causes[p] = cause
		}
	}
	var out []*Problem
	for _, p := range problems {
		if top := f.top(p); top != p {
			top.Follows = append(top.Follows, p)
		} else {
			out = append(out, p)
		}
	}
	return out
}

type folder struct {
	bySubject  map[disk.Ino]*Problem   // the first problem that makes an inode unreliable
	byGroup    map[disk.Group]*Problem // the bitmap problem of a group
	inodeBits  map[disk.Group]*Problem
	unusedBy   map[string]*Problem   // the first entry that names an unused inode, by the group
	brokenMap  *Problem              // the first map of which blocks are lost
	brokenDir  *Problem              // the first directory of which entries are lost
	brokenTree *Problem              // the first directory that cannot be reached
	byIndex    map[disk.Ino]*Problem // the first problem of a directory's index
	ofFeature  map[*Kind]*Problem    // the first that wants a feature
	superSum   *Problem
	backup     *Problem
	short      *Problem // the device is smaller than the file system
	orphanFile *Problem // another inode stands for the orphan file
	causes     map[*Problem]*Problem
}

// losesBlocks are the problems after which blocks of a file are no longer found.
var losesBlocks = map[*Kind]bool{
	extentRoot: true, extentNode: true, extentNodeEmpty: true, extentDepth: true, extentCycle: true, extentStart: true, extentEnd: true,
	extentOrder: true, extentZero: true, extentBounds: true, extentOverlap: true, blockIllegal: true, blockTooMany: true,
	blockTooBigDir: true, blockTooBigFile: true, blockTooBigLink: true, blockUnreadable: true, inodeMode: true,
	extentsFlagOnly: true, extentsFeature: true, inlineJunk: true, inlineMissing: true, inlineFlagOnly: true, inlineFeature: true, inodeLowDtime: true,
	inodeZeroDtime: true,
}

// losesEntries likewise for entries of a directory.
var losesEntries = map[*Kind]bool{
	direntCorrupt: true, direntHole: true, direntUnreadable: true, inodeRootType: true, inodeIsDirectory: true,
	direntInode: true, direntUnused: true, inlineMissing: true, treeNoRoot: true,
}

// indexProblems are those of a directory's index.
var indexProblems = map[*Kind]bool{
	htreeRoot: true, htreeHashVersion: true, htreeFlags: true, htreeDepth: true, htreeLimit: true, htreeCount: true, htreeBlock: true,
	htreeOrder: true, htreeUnreferenced: true, htreeTwice: true, htreeMin: true, htreeMax: true, htreeLeafDepth: true,
}

// wantsFeature are the problems of inodes and entries with what only a feature, that is
// not set, allows.
var wantsFeature = map[*Kind]bool{
	extentsFeature: true, extentsFlagOnly: true, inlineFeature: true, inlineFlagOnly: true, inodeACLFeature: true, inodeCasefold: true,
	inodeImagic: true, verityFeature: true, xattrFeature: true, htreeFeature: true, direntTypeSet: true, groupUninit: true,
}

// checksums are the problems that only checksums have.
var checksums = map[*Kind]bool{
	groupChecksum: true, inodeChecksum: true, extentChecksum: true, xattrChecksum: true, dirChecksum: true, htreeChecksum: true,
	htreeNodeChecksum: true, bitmapBlockSum: true, bitmapInodeSum: true, mmpChecksum: true,
}

// missedBehindEnd are the problems of what lies behind the end of the device, and
// those of what is known from there alone.
var missedBehindEnd = map[*Kind]bool{
	journalInode: true, journalLog: true, resizeMap: true, mmpBlock: true, orphanUnused: true, backupSuper: true,
	blockUnreadable: true, xattrBlockRead: true, direntUnreadable: true, bitmapUnreadable: true, direntUnused: true,
	inodeSymlink: true, htreeUnreferenced: true, treeNoRoot: true, treeUnconnected: true, treeDotDot: true,
	linkUnattached: true, linkUnattachedNil: true, linkCount: true, linkEAInode: true, xattrEAInode: true, xattrRefcount: true,
	bitmapBlocks: true, bitmapInodes: true, countGroupBlocks: true, countGroupInodes: true, countGroupDirs: true,
	quotaUsage: true, quotaFile: true, orphanFileHole: true,
	inodeRootType: true, journalMode: true, quotaMode: true, orphanMode: true, // in a table that reads as zeros
}

func (f *folder) find(problems []*Problem) {
	f.byIndex, f.ofFeature = map[disk.Ino]*Problem{}, map[*Kind]*Problem{}
	f.inodeBits, f.unusedBy = map[disk.Group]*Problem{}, map[string]*Problem{}
	for _, p := range problems {
		ino := p.Place.Ino
		if (p.Kind == inodeGarbage || losesBlocks[p.Kind]) && f.bySubject[ino] == nil {
			f.bySubject[ino] = p
		}
		if indexProblems[p.Kind] && f.byIndex[ino] == nil {
			f.byIndex[ino] = p
		}
		if wantsFeature[p.Kind] && f.ofFeature[p.Kind] == nil {
			f.ofFeature[p.Kind] = p
		}
		if p.Kind == superChecksum {
			f.superSum = p
		}
		if losesBlocks[p.Kind] && f.brokenMap == nil {
			f.brokenMap = p
		}
		if losesEntries[p.Kind] && f.brokenDir == nil {
			f.brokenDir = p
		}
		if losesBlocks[p.Kind] && f.brokenDir == nil && (p.Kind == inodeMode || p.Kind == inodeLowDtime || p.Kind == inodeZeroDtime) {
			f.brokenDir = p
		}
		switch p.Kind {
		case bitmapBlocks, bitmapBlockUninit:
			f.byGroup[p.Place.Group] = p
		case bitmapInodes, bitmapInodeUninit:
			f.inodeBits[p.Place.Group] = p
		case superSize:
			f.short = p
		case direntUninit, direntUnusedArea:
			if f.unusedBy[p.Want] == nil {
				f.unusedBy[p.Want] = p
			}
		case orphanInum, orphanMode:
			if f.orphanFile == nil {
				f.orphanFile = p
			}
		case groupsFromBackup, superMagic, superChecksum, superUnusable:
			f.backup = p
		case treeUnconnected, treeLoop:
			if f.brokenTree == nil {
				f.brokenTree = p
			}
		}
	}
}

// cause is the problem that p follows from, or nil; it may be p itself.
func (f *folder) cause(p *Problem) *Problem {
	switch first := f.bySubject[p.Place.Ino]; {
	case f.superSum != nil && checksums[p.Kind]:
		return f.superSum
	case wantsFeature[p.Kind] && f.ofFeature[p.Kind] != p:
		return f.ofFeature[p.Kind]
	case losesBlocks[p.Kind] && first != p, indexProblems[p.Kind] && first != nil:
		return first
	case indexProblems[p.Kind]:
		return f.byIndex[p.Place.Ino]
	}
	switch p.Kind {
	case inodeChecksum:
		return f.bySubject[p.Place.Ino]
	case inodeSize, inodeBlocks, extentChecksum, inodeSymlink, inodeSpecialSize, inodeEmptyDir, extentIndexStart, blockOnMetadata, inodeReservedMode:
		return f.bySubject[p.Place.Ino]
	case direntType, direntHole:
		return f.bySubject[p.Place.Ino]
	case bitmapBlocks:
		if f.brokenMap != nil && onlyExtra(p) {
			return f.brokenMap
		}
	case bitmapBlockSum, countGroupBlocks:
		if cause := f.byGroup[p.Place.Group]; cause != nil {
			return cause
		}
		if p.Kind == countGroupBlocks {
			return f.backup
		}
	case bitmapInodeSum, countGroupInodes, countGroupDirs:
		if cause := f.inodeBits[p.Place.Group]; cause != nil {
			return cause
		}
		if p.Kind == countGroupDirs && f.brokenDir != nil {
			return f.brokenDir
		}
		if p.Kind != bitmapInodeSum {
			return f.backup
		}
	case treeUnconnected, linkUnattached, linkUnattachedNil:
		return f.brokenDir
	case linkCount:
		if f.brokenDir != nil {
			return f.brokenDir
		}
		return f.brokenTree
	case orphanFileSize, orphanFileHole, orphanFileBlock, orphanMode:
		return f.orphanFile
	case direntUninit, direntUnusedArea:
		return f.unusedBy[p.Want]
	case direntInode:
		if f.orphanFile != nil && f.orphanFile.Kind == orphanInum && f.orphanFile.Have == p.Have {
			return f.orphanFile
		}
	case treeDotDot:
		return f.bySubject[p.Place.Ino]
	case quotaUsage:
		if f.brokenMap != nil {
			return f.brokenMap
		}
	}
	return nil
}

// onlyExtra reports whether all of p's ranges are marked in vain.
func onlyExtra(p *Problem) bool {
	for _, r := range p.Ranges {
		if r.Missing {
			return false
		}
	}
	return true
}

// top is the problem that p stands under in the end: causes have causes.
func (f *folder) top(p *Problem) *Problem {
	for range 8 {
		cause := f.causes[p]
		if cause == nil {
			return p
		}
		p = cause
	}
	return p
}
