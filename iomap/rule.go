package iomap

import (
	"fmt"
	"syscall"
)

// EFSCORRUPTED is what the kernel's caller gets for a mapping that breaks a
// rule, unless the rule has an error of its own.
const EFSCORRUPTED = syscall.EUCLEAN

// Version is a state of the kernel's half of the protocol, which refuses more
// from one to the next.
type Version int

const (
	V7 Version = 7 // the posting of February 2026
	V8 Version = 8 // the kernel after it
)

// String returns "v7" and so on.
func (v Version) String() string { return fmt.Sprintf("v%d", int(v)) }

// Rule is the number of a rule by which the kernel refuses a mapping, as
// docs/IOMAP.md lists them.
type Rule int

// The rules: 1 to 17 for the reply to a BEGIN, of which 1 to 11 and 14, with
// 18 to 20, hold for upserts, and 4 to 6 for invalidations.
const (
	RuleType          Rule = 1  // the type is one of the protocol's
	RuleFlags         Rule = 2  // only flags that a server may set
	RuleLength        Rule = 3  // not empty
	RuleAlign         Rule = 4  // offset and length in whole blocks
	RuleEnd           Rule = 5  // the end fits in 64 bits
	RuleMaxBytes      Rule = 6  // starts below the largest file size
	RuleHasDevice     Rule = 7  // MAPPED, UNWRITTEN: a device and an address
	RuleNoDevice      Rule = 8  // HOLE, DELALLOC, INLINE: neither
	RuleAddrEnd       Rule = 9  // the address of the end fits in 64 bits
	RulePureOverwrite Rule = 10 // PURE_OVERWRITE: as write side only; v8: nothing but a range
	RuleRetryCache    Rule = 11 // RETRY_CACHE: only with a cache; v8: nothing but a range
	RuleNoCache       Rule = 12 // NOCACHE is no answer to BEGIN
	RuleCovers        Rule = 13 // the requested position lies inside
	RuleDevice        Rule = 14 // the device is registered
	RuleRetryUncached Rule = 15 // v8: no RETRY_CACHE to an operation that never looks into the cache
	RuleAtomic        Rule = 16 // v8: the target of an atomic write can be one (EIO)
	RuleMode          Rule = 17 // v8: the device was opened for the use (EACCES)
	RuleUpsertRetry   Rule = 18 // upsert: RETRY_CACHE cannot be cached
	RuleDeviceSize    Rule = 19 // upsert: the device has a size (EINVAL)
	RuleFitsDevice    Rule = 20 // upsert: ends within the device
)

// Side says which of two mappings or ranges is meant.
type Side int

const (
	ReadSide Side = iota
	WriteSide
)

// String returns "read" or "write".
func (s Side) String() string {
	if s == WriteSide {
		return "write"
	}
	return "read"
}

// A Violation is one field of a message that breaks one rule.
type Violation struct {
	Rule  Rule
	Side  Side
	Field string        // the field that is wrong: "offset", "type"
	Have  string        // what stands there
	Want  string        // what the rule allows, as a phrase: "a multiple of 1024"
	Errno syscall.Errno // what the kernel returns for it
}

// Error says what is wrong, without the errno.
func (v Violation) Error() string {
	return fmt.Sprintf("rule %d: %s mapping: %s is %s, want %s", v.Rule, v.Side, v.Field, v.Have, v.Want)
}

// Unwrap returns the errno.
func (v Violation) Unwrap() error { return v.Errno }

// Violations are all that is wrong with one message, or empty. Those that the
// kernel looks for first come first.
type Violations []Violation

// Err returns the first violation, which is the one that the kernel stops at,
// or nil.
func (vs Violations) Err() error {
	if len(vs) == 0 {
		return nil
	}
	return vs[0]
}

// Errno returns what the kernel's caller gets, or 0 if the message is accepted.
func (vs Violations) Errno() syscall.Errno {
	if len(vs) == 0 {
		return 0
	}
	return vs[0].Errno
}

// Env is what the kernel knows when it judges a message.
type Env struct {
	BlockSize uint64 // of the superblock, bytes: the page size, until CONFIG says otherwise; nothing is aligned to 0
	MaxBytes  uint64 // s_maxbytes: the largest size of a file
	HasCache  bool   // the inode has a mapping cache: an upsert to it has succeeded
	Devices   map[uint32]Device
}

// Device is a registered backing device, by the mode in which its descriptor
// was open.
type Device struct {
	Readable bool
	Writable bool
	Size     uint64 // bytes; only upserts are compared with it
}
