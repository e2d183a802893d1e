package fsck

import (
	"fmt"
	"strconv"
	"strings"

	"e4go/ext4/disk"
)

// A Severity says what a problem means for the file system.
type Severity uint8

const (
	// Note is something that may be better, or that mounting will put right
	// by itself. Sound file systems have them.
	Note Severity = iota
	// Warning is something wrong that harms nothing: the kernel takes the file
	// system as it is, and neither it nor its files suffer.
	Warning
	// Error is damage.
	Error
)

func (s Severity) String() string { return [...]string{"note", "warning", "error"}[s] }

// A Pass is a part of the check, by e2fsck's numbers.
type Pass uint8

const (
	PassSetup  Pass = iota // superblock, groups, journal
	PassInodes             // inodes and their blocks
	PassDirs               // directories
	PassTree               // connectivity
	PassLinks              // reference counts
	PassGroups             // bitmaps and counts
	PassEnd                // quota and orphan file
	passes
)

func (p Pass) String() string {
	return [...]string{"superblock, groups and journal", "inodes and blocks", "directories", "connectivity", "link counts", "bitmaps and counts", "quota and orphans"}[p]
}

// A Class is a problem class of e2fsck, as its -E problem_log= prints them
// (PR_* in e2fsck/problem.h): the pass in the third byte, a number below.
type Class uint32

func (c Class) String() string { return fmt.Sprintf("0x%06x", uint32(c)) }

// A Kind is one row of the table of problems.
type Kind struct {
	Code     string   // stable name
	Pass     Pass     // where it is found
	Severity Severity // of each problem of this kind
	Repair   bool     // there is one right repair, which loses nothing
	Sentence string   // with {have}, {want} and {n} in the places of what is known
	Class    Class    // what e2fsck calls it; 0 if it does not look for it
	Also     []Class  // what e2fsck says besides: headers and questions
}

// kinds is the table, in the order of its rows.
var kinds []*Kind

// row adds a row to the table.
func row(pass Pass, severity Severity, code, sentence string, repair bool, classes ...Class) *Kind {
	k := &Kind{Code: code, Pass: pass, Severity: severity, Repair: repair, Sentence: sentence}
	if len(classes) > 0 {
		k.Class, k.Also = classes[0], classes[1:]
	}
	kinds = append(kinds, k)
	return k
}

// For the last but one argument of row.
const (
	oneRepair = true
	noRepair  = false
)

// Kinds returns the table of problems.
func Kinds() []*Kind { return kinds }

// A Place is where a problem is. What is not known, or does not apply, is zero.
type Place struct {
	Group   disk.Group
	InGroup bool // Group counts
	Ino     disk.Ino
	Dir     disk.Ino // the directory whose entry it is
	Name    string   // of that entry, as it is stored
	Path    string   // of Ino, or of the entry in Dir; of several, one
	LBlock  uint64   // block of the file
	InFile  bool     // LBlock counts
	Block   disk.PBlock
	Off     int  // byte in Block
	OnBlock bool // Block and Off count
}

// A Range is a run of blocks or inodes.
type Range struct {
	First, Last uint64
	Missing     bool // in a bitmap: used, and not marked so; else marked and not used
}

// An Owner is who claims a block.
type Owner struct {
	Ino  disk.Ino // 0: the file system's own metadata
	Path string
}

// A Problem is one finding.
type Problem struct {
	*Kind
	Place      Place
	Have, Want string  // what stands there, and what should
	Number     uint64  // {n}
	Ranges     []Range // of what there may be many
	More       uint64  // ranges that were left out as there are too many
	Owners     []Owner // of blocks that are claimed by several
	Follows    []*Problem
	classes    []Class // instead of the kind's
}

// Classes are all problem classes by which e2fsck names it.
func (p *Problem) Classes() []Class {
	if p.classes != nil {
		return p.classes
	}
	if p.Class == 0 {
		return nil
	}
	return append([]Class{p.Class}, p.Also...)
}

// Text is the sentence, without the place.
func (p *Problem) Text() string {
	s := p.Sentence
	if strings.IndexByte(s, '{') < 0 {
		return s
	}
	return strings.NewReplacer("{have}", p.Have, "{want}", p.Want, "{n}", fmt.Sprint(p.Number)).Replace(s)
}

// hex and dec are values as problems show them.
func hex[T ~uint8 | ~uint16 | ~uint32 | ~uint64](v T) string {
	return "0x" + strconv.FormatUint(uint64(v), 16)
}
func dec[T ~int | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64](v T) string {
	if v < 0 {
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatUint(uint64(v), 10)
}
