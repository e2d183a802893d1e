package iomap

import (
	"fmt"
	"strconv"
	"syscall"
)

// Validate judges the reply to a BEGIN as a kernel of version v does, and
// returns every rule it breaks (the kernel stops at the first): rules 1 to 11
// and 13 of both sides, then those of the reply as a whole. A reply that is
// accepted makes no garbage.
//
// The rules are those of fs/fuse/fuse_iomap.c. They hold for the side that the
// operation does not consume, too.
func Validate(v Version, req Request, reply Reply, env Env) Violations {
	c := checker{v: v, env: env}
	for _, side := range [...]Side{ReadSide, WriteSide} {
		m := reply.side(side)
		c.mapping(side, m)
		c.retryCache(side, m)
		c.covers(side, m, req.Pos)
	}
	c.device(ReadSide, reply.Read)
	c.device(WriteSide, reply.Write)
	if v >= V8 {
		c.atomic(req.Op, reply)
		c.modes(req.Op, reply)
	}
	return c.found
}

// ValidateUpsert judges a notification that fills the mapping cache.
func ValidateUpsert(v Version, u Upsert, env Env) Violations {
	c := checker{v: v, env: env}
	c.upsert(ReadSide, u.Read)
	c.upsert(WriteSide, u.Write)
	c.upsertDevice(ReadSide, u.Read)
	c.upsertDevice(WriteSide, u.Write)
	return c.found
}

// ValidateInval judges a notification that empties the mapping cache. Rules 4
// and 5 do not hold for a length of [ToEOF], and none for a range of length 0.
func ValidateInval(v Version, inv Inval, env Env) Violations {
	c := checker{v: v, env: env}
	c.inval(ReadSide, inv.Read)
	c.inval(WriteSide, inv.Write)
	return c.found
}

func (r Reply) side(s Side) Mapping {
	if s == WriteSide {
		return r.Write
	}
	return r.Read
}

// checker collects what one message breaks.
type checker struct {
	v     Version
	env   Env
	found Violations
}

// bad adds a violation that the kernel calls EFSCORRUPTED.
func (c *checker) bad(r Rule, s Side, field, have, want string) {
	c.badErrno(r, s, field, have, want, EFSCORRUPTED)
}

func (c *checker) badErrno(r Rule, s Side, field, have, want string, errno syscall.Errno) {
	c.found = append(c.found, Violation{Rule: r, Side: s, Field: field, Have: have, Want: want, Errno: errno})
}

// mapping applies what one mapping must be by itself: rules 1 to 10, and what
// v8 asks of the types that are only a range.
func (c *checker) mapping(s Side, m Mapping) {
	switch m.Type {
	case TypeNoCache, TypeRetryCache:
		if c.v >= V8 {
			c.extent(s, m)
			c.bare(RuleRetryCache, s, m)
		}
		return
	}
	if !m.Type.Known() {
		c.bad(RuleType, s, "type", m.Type.String(), "0 to 4 or 253 to 255")
	}
	c.extent(s, m)
	switch m.Type {
	case TypeMapped, TypeUnwritten:
		if m.Dev == DevNull {
			c.bad(RuleHasDevice, s, "dev", dec(uint64(m.Dev)), "a device for "+m.Type.String())
		}
		if m.Addr == NullAddr {
			c.bad(RuleHasDevice, s, "addr", addrString(m.Addr), "an address for "+m.Type.String())
		}
	case TypeHole, TypeDelalloc, TypeInline:
		c.nowhere(RuleNoDevice, s, m)
	case TypePureOverwrite:
		if s == ReadSide {
			c.bad(RulePureOverwrite, s, "type", m.Type.String(), "a type of the read side")
		}
		if c.v >= V8 {
			c.bare(RulePureOverwrite, s, m)
		}
	}
	if _, ok := addFits(m.Addr, m.Length); !ok && m.Addr != NullAddr {
		c.bad(RuleAddrEnd, s, "addr", fmt.Sprintf("%d with length %d", m.Addr, m.Length), "an end below 2^64")
	}
}

// extent applies rules 2 to 6.
func (c *checker) extent(s Side, m Mapping) {
	if m.Flags&^ServerFlags != 0 {
		c.bad(RuleFlags, s, "flags", m.Flags.String(), "none but bits 0 to 7")
	}
	if m.Length == 0 {
		c.bad(RuleLength, s, "length", "0", "more than 0")
	}
	c.aligned(s, "offset", m.Offset)
	c.aligned(s, "length", m.Length)
	if _, ok := m.End(); !ok {
		c.endOverflows(s, m.Offset, m.Length)
	}
	c.belowMax(s, m.Offset)
}

func (c *checker) aligned(s Side, field string, n uint64) {
	if bs := c.env.BlockSize; bs == 0 || n%bs != 0 {
		c.bad(RuleAlign, s, field, dec(n), "a multiple of "+dec(bs))
	}
}

func (c *checker) endOverflows(s Side, offset, length uint64) {
	c.bad(RuleEnd, s, "length", fmt.Sprintf("%d from offset %d", length, offset), "an end below 2^64")
}

func (c *checker) belowMax(s Side, offset uint64) {
	if offset >= c.env.MaxBytes {
		c.bad(RuleMaxBytes, s, "offset", dec(offset), "less than "+dec(c.env.MaxBytes))
	}
}

// bare says that m is a range and nothing else.
func (c *checker) bare(r Rule, s Side, m Mapping) {
	if m.Flags != 0 {
		c.bad(r, s, "flags", m.Flags.String(), "0 for "+m.Type.String())
	}
	c.nowhere(r, s, m)
}

// nowhere says that m lies on no device.
func (c *checker) nowhere(r Rule, s Side, m Mapping) {
	if m.Dev != DevNull {
		c.bad(r, s, "dev", dec(uint64(m.Dev)), "0 for "+m.Type.String())
	}
	if m.Addr != NullAddr {
		c.bad(r, s, "addr", addrString(m.Addr), "NULL_ADDR for "+m.Type.String())
	}
}

// retryCache applies rules 11 and 12: which of the answers about the cache are
// answers to a BEGIN.
func (c *checker) retryCache(s Side, m Mapping) {
	switch m.Type {
	case TypeRetryCache:
		if !c.env.HasCache {
			c.bad(RuleRetryCache, s, "type", m.Type.String(), "a mapping, since the inode has no mapping cache")
		}
	case TypeNoCache:
		c.bad(RuleNoCache, s, "type", m.Type.String(), "a type for a reply, not for an upsert")
	}
}

// covers applies rule 13. Where rule 5 has not been applied, an end that wraps
// round lies before every pos.
func (c *checker) covers(s Side, m Mapping, pos uint64) {
	wraps := false
	if c.v < V8 && (m.Type == TypeRetryCache || m.Type == TypeNoCache) {
		_, fits := m.End()
		wraps = !fits
	}
	if !m.Covers(pos) || wraps {
		c.bad(RuleCovers, s, "offset", fmt.Sprintf("%d with length %d", m.Offset, m.Length), "a range that holds "+dec(pos))
	}
}

// device applies rule 14. It returns the device, and whether m is on one that
// is registered.
func (c *checker) device(s Side, m Mapping) (Device, bool) {
	if !m.Type.HasDevice() || m.Dev == DevNull {
		return Device{}, false
	}
	d, ok := c.env.Devices[m.Dev]
	if !ok {
		c.bad(RuleDevice, s, "dev", dec(uint64(m.Dev)), "a registered backing device")
	}
	return d, ok
}

// atomic applies rules 15 and 16. The kernel means to apply 15 to both sides,
// but looks at the read side twice.
func (c *checker) atomic(op Op, reply Reply) {
	if op.Uncached() && reply.Read.Type == TypeRetryCache {
		c.bad(RuleRetryUncached, ReadSide, "type", reply.Read.Type.String(), "a mapping, for "+op.String())
		return
	}
	if op&OpAtomic == 0 {
		return
	}
	_, dst := Consumed(op, reply)
	s := targetSide(op, reply)
	if !dst.Type.HasDevice() {
		c.badErrno(RuleAtomic, s, "type", dst.Type.String(), "MAPPED or UNWRITTEN for an atomic write", syscall.EIO)
	}
	if dst.Flags&FlagAtomicBio == 0 {
		c.badErrno(RuleAtomic, s, "flags", dst.Flags.String(), "ATOMIC_BIO among them", syscall.EIO)
	}
}

// modes applies rule 17 to the sides that are consumed. A device that is
// written to must be readable too.
func (c *checker) modes(op Op, reply Reply) {
	target := targetSide(op, reply)
	c.mode(ReadSide, reply.Read, op.IsWrite() && target == ReadSide)
	if target == WriteSide {
		c.mode(WriteSide, reply.Write, true)
	}
}

func (c *checker) mode(s Side, m Mapping, write bool) {
	if !m.Type.HasDevice() {
		return
	}
	d, ok := c.env.Devices[m.Dev]
	switch {
	case !ok: // rule 7 or 14
	case !d.Readable:
		c.badErrno(RuleMode, s, "dev", dec(uint64(m.Dev))+", not open for reading", "one open for reading", syscall.EACCES)
	case write && !d.Writable:
		c.badErrno(RuleMode, s, "dev", dec(uint64(m.Dev))+", not open for writing", "one open for reading and writing", syscall.EACCES)
	}
}

// targetSide returns which side of the reply is dst of [Consumed].
func targetSide(op Op, reply Reply) Side {
	if op.IsWrite() && reply.Write.Type != TypePureOverwrite {
		return WriteSide
	}
	return ReadSide
}

// upsert applies rules 1 to 10 and 18.
func (c *checker) upsert(s Side, m Mapping) {
	c.mapping(s, m)
	if m.Type == TypeRetryCache {
		c.bad(RuleUpsertRetry, s, "type", m.Type.String(), "a mapping, or NOCACHE")
	}
}

// upsertDevice applies rules 14, 19 and 20.
func (c *checker) upsertDevice(s Side, m Mapping) {
	d, ok := c.device(s, m)
	if !ok {
		return
	}
	if d.Size == 0 {
		c.badErrno(RuleDeviceSize, s, "dev", dec(uint64(m.Dev))+", of size 0", "a device with a size", syscall.EINVAL)
		return
	}
	if end, ok := m.AddrEnd(); ok && end > d.Size {
		c.bad(RuleFitsDevice, s, "addr", fmt.Sprintf("%d with length %d", m.Addr, m.Length), "an end of at most "+dec(d.Size))
	}
}

// inval applies rules 4 to 6 to a range; rule 5 in v8 only.
func (c *checker) inval(s Side, r Range) {
	if r.Length == 0 {
		return
	}
	c.belowMax(s, r.Offset)
	c.aligned(s, "offset", r.Offset)
	if r.Length == ToEOF {
		return
	}
	c.aligned(s, "length", r.Length)
	if _, ok := addFits(r.Offset, r.Length); !ok && c.v >= V8 {
		c.endOverflows(s, r.Offset, r.Length)
	}
}

func dec(n uint64) string { return strconv.FormatUint(n, 10) }
