package iomap

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Blocks of 1 KiB, and a maximum that is one block past an even number.
var testEnv = Env{
	BlockSize: 1024,
	MaxBytes:  1<<40 + 1024,
	HasCache:  true,
	Devices: map[uint32]Device{
		1: {Readable: true, Writable: true, Size: 1 << 30},
		2: {Readable: true, Size: 1 << 30},
		3: {Writable: true, Size: 1 << 30},
		4: {Readable: true, Writable: true}, // of size 0
	},
}

var both = []Version{V7, V8}

func mapped() Mapping {
	return Mapping{Offset: 4096, Length: 8192, Addr: 1 << 20, Type: TypeMapped, Dev: 1}
}

// rangeOnly is a mapping that is nothing but a range.
func rangeOnly(t Type) Mapping {
	m := Overwrite(mapped())
	m.Type = t
	return m
}

// with returns m changed.
func with(m Mapping, change func(*Mapping)) Mapping {
	change(&m)
	return m
}

type breakRow struct {
	name     string
	versions []Version
	op       Op
	read     Mapping
	write    Mapping
	env      func(*Env)
	want     []string // "rule side field"
	errno    syscall.Errno
}

// pure makes the row of an in-place reply.
func pure(name string, versions []Version, m Mapping, want string) breakRow {
	return breakRow{name: name, versions: versions, read: m, write: Overwrite(mapped()), want: []string{want}, errno: EFSCORRUPTED}
}

// outOfPlace makes the row of a reply whose write side is wrong.
func outOfPlace(name string, versions []Version, m Mapping, want string) breakRow {
	return breakRow{name: name, versions: versions, op: OpWrite, read: mapped(), write: m, want: []string{want}, errno: EFSCORRUPTED}
}

func breakRows() []breakRow {
	v7, v8 := []Version{V7}, []Version{V8}
	noCache := func(e *Env) { e.HasCache = false }
	rows := []breakRow{
		// Rule 1: each neighbour of the known ranges.
		pure("type 5", both, with(mapped(), func(m *Mapping) { m.Type = 5 }), "1 read type"),
		pure("type 252", both, with(mapped(), func(m *Mapping) { m.Type = 252 }), "1 read type"),
		pure("type 256", both, with(mapped(), func(m *Mapping) { m.Type = 256 }), "1 read type"),
		outOfPlace("type 65535", both, with(mapped(), func(m *Mapping) { m.Type = 0xffff }), "1 write type"),
		// Rule 2.
		pure("SIZE_CHANGED", both, with(mapped(), func(m *Mapping) { m.Flags = FlagNew | FlagSizeChanged }), "2 read flags"),
		pure("bit 15", both, with(mapped(), func(m *Mapping) { m.Flags = 1 << 15 }), "2 read flags"),
		outOfPlace("STALE", both, with(mapped(), func(m *Mapping) { m.Flags = FlagStale }), "2 write flags"),
		// Rule 4.
		pure("odd offset", both, with(mapped(), func(m *Mapping) { m.Offset = 3584 }), "4 read offset"),
		pure("odd length", both, with(mapped(), func(m *Mapping) { m.Length = 8191 }), "4 read length"),
		outOfPlace("odd write offset", both, with(mapped(), func(m *Mapping) { m.Offset++ }), "4 write offset"),
		// Rule 5. A hole, since an address would overflow too.
		pure("end at 2^64", both, Hole(4096, 1<<64-4096), "5 read length"),
		outOfPlace("end past 2^64", both, Hole(4096, 1<<64-1024), "5 write length"),
		// Rule 7.
		pure("MAPPED, no device", both, with(mapped(), func(m *Mapping) { m.Dev = DevNull }), "7 read dev"),
		pure("MAPPED, no address", both, with(mapped(), func(m *Mapping) { m.Addr = NullAddr }), "7 read addr"),
		pure("UNWRITTEN, no address", both, with(mapped(), func(m *Mapping) { m.Type, m.Addr = TypeUnwritten, NullAddr }), "7 read addr"),
		outOfPlace("write UNWRITTEN, no device", both, with(mapped(), func(m *Mapping) { m.Type, m.Dev = TypeUnwritten, DevNull }), "7 write dev"),
		// Rule 8.
		pure("HOLE with device", both, with(rangeOnly(TypeHole), func(m *Mapping) { m.Dev = 1 }), "8 read dev"),
		pure("HOLE at address 0", both, with(rangeOnly(TypeHole), func(m *Mapping) { m.Addr = 0 }), "8 read addr"),
		pure("DELALLOC with device", both, with(rangeOnly(TypeDelalloc), func(m *Mapping) { m.Dev = 1 }), "8 read dev"),
		pure("INLINE with address", both, with(rangeOnly(TypeInline), func(m *Mapping) { m.Addr = 512 }), "8 read addr"),
		outOfPlace("write HOLE with address", both, with(rangeOnly(TypeHole), func(m *Mapping) { m.Addr = 4096 }), "8 write addr"),
		// Rule 9. 1<<64-1 is no address.
		pure("address ends at 2^64", both, with(mapped(), func(m *Mapping) { m.Addr = 1<<64 - 8192 }), "9 read addr"),
		outOfPlace("last address", both, with(mapped(), func(m *Mapping) { m.Addr = 1<<64 - 2 }), "9 write addr"),
		outOfPlace("PURE_OVERWRITE address", v7, with(rangeOnly(TypePureOverwrite), func(m *Mapping) { m.Addr = 1<<64 - 2 }), "9 write addr"),
		// Rule 10.
		pure("PURE_OVERWRITE read side", both, rangeOnly(TypePureOverwrite), "10 read type"),
		outOfPlace("PURE_OVERWRITE flags", v8, with(rangeOnly(TypePureOverwrite), func(m *Mapping) { m.Flags = FlagDirty }), "10 write flags"),
		outOfPlace("PURE_OVERWRITE dev", v8, with(rangeOnly(TypePureOverwrite), func(m *Mapping) { m.Dev = 1 }), "10 write dev"),
		outOfPlace("PURE_OVERWRITE addr", v8, with(rangeOnly(TypePureOverwrite), func(m *Mapping) { m.Addr = 0 }), "10 write addr"),
		// Rule 11.
		{"RETRY_CACHE, no cache", both, 0, rangeOnly(TypeRetryCache), Overwrite(mapped()), noCache, []string{"11 read type"}, EFSCORRUPTED},
		{"write RETRY_CACHE, no cache", both, OpWrite, mapped(), rangeOnly(TypeRetryCache), noCache, []string{"11 write type"}, EFSCORRUPTED},
		pure("RETRY_CACHE flags", v8, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Flags = FlagNew }), "11 read flags"),
		pure("RETRY_CACHE dev", v8, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Dev = 1 }), "11 read dev"),
		outOfPlace("RETRY_CACHE addr", v8, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Addr = 0 }), "11 write addr"),
		pure("RETRY_CACHE unaligned", v8, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Offset-- }), "4 read offset"),
		pure("RETRY_CACHE wraps", v8, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Length = 1<<64 - 4096 }), "5 read length"),
		pure("RETRY_CACHE wraps", v7, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Length = 1<<64 - 4096 }), "13 read offset"),
		// Rule 12.
		pure("NOCACHE", both, rangeOnly(TypeNoCache), "12 read type"),
		outOfPlace("write NOCACHE", both, rangeOnly(TypeNoCache), "12 write type"),
		// Rule 13. The request is for 5000.
		pure("ends at pos", both, with(mapped(), func(m *Mapping) { m.Offset, m.Length = 2048, 2048 }), "13 read offset"),
		pure("starts past pos", both, with(mapped(), func(m *Mapping) { m.Offset = 5120 }), "13 read offset"),
		outOfPlace("PURE_OVERWRITE elsewhere", both, with(rangeOnly(TypePureOverwrite), func(m *Mapping) { m.Offset = 0; m.Length = 1024 }), "13 write offset"),
		pure("RETRY_CACHE elsewhere", both, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Offset = 1 << 20 }), "13 read offset"),
		// Rule 14.
		pure("unregistered device", both, with(mapped(), func(m *Mapping) { m.Dev = 77 }), "14 read dev"),
		outOfPlace("write UNWRITTEN unregistered", both, with(mapped(), func(m *Mapping) { m.Type, m.Dev = TypeUnwritten, 77 }), "14 write dev"),
		// Rule 15.
		{"ATOMIC, RETRY_CACHE", v8, OpWrite | OpDirect | OpAtomic, rangeOnly(TypeRetryCache), Overwrite(mapped()), nil, []string{"15 read type"}, EFSCORRUPTED},
		{"SWAPFILE, RETRY_CACHE", v8, OpReport | OpSwapfile, rangeOnly(TypeRetryCache), Overwrite(mapped()), nil, []string{"15 read type"}, EFSCORRUPTED},
		// Rule 16.
		{"ATOMIC without ATOMIC_BIO", v8, OpWrite | OpDirect | OpAtomic, mapped(), Overwrite(mapped()), nil, []string{"16 read flags"}, syscall.EIO},
		{"ATOMIC, HOLE", v8, OpWrite | OpDirect | OpAtomic, with(rangeOnly(TypeHole), func(m *Mapping) { m.Flags = FlagAtomicBio }), Overwrite(mapped()), nil, []string{"16 read type"}, syscall.EIO},
		{"ATOMIC out of place", v8, OpWrite | OpDirect | OpAtomic, with(mapped(), func(m *Mapping) { m.Flags = FlagAtomicBio }), mapped(), nil, []string{"16 write flags"}, syscall.EIO},
		// Rule 17. Devices 2 and 3 are open for reading and writing only.
		{"read, write-only device", v8, 0, with(mapped(), func(m *Mapping) { m.Dev = 3 }), Overwrite(mapped()), nil, []string{"17 read dev"}, syscall.EACCES},
		{"write, read-only device", v8, OpWrite, with(mapped(), func(m *Mapping) { m.Dev = 2 }), Overwrite(mapped()), nil, []string{"17 read dev"}, syscall.EACCES},
		{"write, write-only device", v8, OpWriteback, with(mapped(), func(m *Mapping) { m.Dev = 3 }), Overwrite(mapped()), nil, []string{"17 read dev"}, syscall.EACCES},
		{"out of place to read-only", v8, OpWrite, mapped(), with(mapped(), func(m *Mapping) { m.Dev = 2 }), nil, []string{"17 write dev"}, syscall.EACCES},
	}
	// Some rules come in pairs: an empty range covers nothing (alone, rule 3 is
	// broken by an upsert), and a flag that no server may set is a flag.
	rows = append(rows,
		breakRow{"RETRY_CACHE unknown flag", v8, 0, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Flags = FlagStale }), Overwrite(mapped()), nil, []string{"2 read flags", "11 read flags"}, EFSCORRUPTED},
		breakRow{"empty", both, 0, with(mapped(), func(m *Mapping) { m.Length = 0 }), Overwrite(mapped()), nil, []string{"3 read length", "13 read offset"}, EFSCORRUPTED},
		breakRow{"offset at maximum", both, 0, with(mapped(), func(m *Mapping) { m.Offset = 1<<40 + 1024 }), Overwrite(mapped()), nil, []string{"6 read offset", "13 read offset"}, EFSCORRUPTED},
		breakRow{"maximum below offset", both, 0, mapped(), with(rangeOnly(TypePureOverwrite), func(m *Mapping) { m.Offset, m.Length = 0, 8192 }), func(e *Env) { e.MaxBytes = 4096 }, []string{"6 read offset"}, EFSCORRUPTED},
	)
	return rows
}

func keys(vs Violations) []string {
	var out []string
	for _, v := range vs {
		out = append(out, fmt.Sprintf("%d %s %s", v.Rule, v.Side, v.Field))
	}
	return out
}

func TestValidateRules(t *testing.T) {
	broken := map[Rule]bool{}
	for _, tt := range breakRows() {
		env := testEnv
		if tt.env != nil {
			tt.env(&env)
		}
		req := Request{Op: tt.op, Pos: 5000, Count: 100}
		reply := Reply{tt.read, tt.write}
		for _, v := range tt.versions {
			vs := Validate(v, req, reply, env)
			if got := keys(vs); !slices.Equal(got, tt.want) {
				t.Errorf("%s %s: got %q, want %q", v, tt.name, got, tt.want)
				continue
			}
			if vs.Errno() != tt.errno || vs.Err() == nil {
				t.Errorf("%s %s: got %v, want %v", v, tt.name, vs.Errno(), tt.errno)
			}
			for _, b := range vs {
				broken[b.Rule] = true
				if b.Have == "" || b.Want == "" || b.Have == b.Want || b.Unwrap() != error(b.Errno) {
					t.Errorf("%s %s: %#v does not say what is wrong", v, tt.name, b)
				}
			}
		}
		// What v8 alone refuses, v7 lets pass.
		if slices.Equal(tt.versions, []Version{V8}) && !slices.ContainsFunc(breakRows(), func(o breakRow) bool {
			return o.name == tt.name && slices.Equal(o.versions, []Version{V7})
		}) {
			if vs := Validate(V7, req, reply, env); len(vs) != 0 {
				t.Errorf("v7 %s: got %q, want it accepted", tt.name, keys(vs))
			}
		}
	}
	for r := RuleType; r <= RuleMode; r++ {
		if !broken[r] {
			t.Errorf("no row breaks rule %d", r)
		}
	}
}

func TestValidateAccepts(t *testing.T) {
	atomic := with(mapped(), func(m *Mapping) { m.Flags = FlagAtomicBio })
	tests := []struct {
		name     string
		versions []Version
		op       Op
		read     Mapping
		write    Mapping
	}{
		{"read", both, 0, mapped(), Overwrite(mapped())},
		{"unwritten", both, OpReport, with(mapped(), func(m *Mapping) { m.Type = TypeUnwritten }), Overwrite(mapped())},
		{"hole", both, 0, Hole(0, 1<<40), Overwrite(Hole(0, 1<<40))},
		{"hole to the last block of 2^64", both, 0, Hole(0, 1<<64-1024), Overwrite(Hole(0, 1<<64-1024))},
		{"delalloc", both, OpWrite, rangeOnly(TypeDelalloc), Overwrite(mapped())},
		{"inline", both, 0, rangeOnly(TypeInline), Overwrite(mapped())},
		{"one block", both, 0, with(mapped(), func(m *Mapping) { m.Length = 1024 }), Overwrite(mapped())},
		{"address 0", both, 0, with(mapped(), func(m *Mapping) { m.Addr = 0 }), Overwrite(mapped())},
		{"unaligned address", both, 0, with(mapped(), func(m *Mapping) { m.Addr = 77 }), Overwrite(mapped())},
		{"address past the device", both, 0, with(mapped(), func(m *Mapping) { m.Addr = 1 << 50 }), Overwrite(mapped())},
		{"last address", both, 0, with(mapped(), func(m *Mapping) { m.Addr = 1<<64 - 1 - 8192 }), Overwrite(mapped())},
		{"all server flags", both, 0, with(mapped(), func(m *Mapping) { m.Flags = ServerFlags }), Overwrite(mapped())},
		{"sides of different ranges", both, 0, mapped(), Overwrite(Hole(0, 1<<20))},
		{"copy on write", both, OpWrite, mapped(), with(mapped(), func(m *Mapping) { m.Addr = 1 << 21 })},
		{"retry", both, 0, rangeOnly(TypeRetryCache), Overwrite(mapped())},
		{"retry the write side", both, OpWrite, mapped(), rangeOnly(TypeRetryCache)},
		{"retry of no range", []Version{V7}, 0, with(rangeOnly(TypeRetryCache), func(m *Mapping) { m.Offset, m.Length, m.Flags, m.Dev = 5000, 1, 0xffff, 9 }), Overwrite(mapped())},
		{"atomic", both, OpWrite | OpDirect | OpAtomic, atomic, Overwrite(atomic)},
		{"atomic out of place", both, OpWrite | OpDirect | OpAtomic, mapped(), atomic},
		{"swapon, write side RETRY_CACHE", both, OpReport | OpSwapfile, mapped(), rangeOnly(TypeRetryCache)}, // the mistyped check of v8
		{"read-only device", both, 0, with(mapped(), func(m *Mapping) { m.Dev = 2 }), Overwrite(mapped())},
		{"copy from a read-only device", both, OpWrite, with(mapped(), func(m *Mapping) { m.Dev = 2 }), mapped()},
		{"unused write side on a read-only device", both, 0, mapped(), with(mapped(), func(m *Mapping) { m.Dev = 2 })},
		{"write-only device", []Version{V7}, 0, with(mapped(), func(m *Mapping) { m.Dev = 3 }), Overwrite(mapped())},
	}
	for _, tt := range tests {
		for _, v := range tt.versions {
			req, reply := Request{tt.op, 5000, 100}, Reply{tt.read, tt.write}
			vs := Validate(v, req, reply, testEnv)
			if len(vs) != 0 || vs.Err() != nil || vs.Errno() != 0 {
				t.Errorf("%s %s: %v (%v)", v, tt.name, vs, vs.Errno())
			}
			if n := testing.AllocsPerRun(10, func() { Validate(v, req, reply, testEnv) }); n != 0 {
				t.Errorf("%s %s: %v allocations", v, tt.name, n)
			}
		}
	}
}

// An atomic write that also lacks a device is an EFSCORRUPTED first.
func TestValidateOrder(t *testing.T) {
	m := with(mapped(), func(m *Mapping) { m.Dev = 77 })
	vs := Validate(V8, Request{OpWrite | OpDirect | OpAtomic, 5000, 1024}, Reply{m, Overwrite(m)}, testEnv)
	if got, want := keys(vs), []string{"14 read dev", "16 read flags"}; !slices.Equal(got, want) || vs.Errno() != EFSCORRUPTED {
		t.Errorf("got %q, %v, want %q, %v", got, vs.Errno(), want, EFSCORRUPTED)
	}
	if got, want := vs.Err().Error(), "rule 14: read mapping: dev is 77, want a registered backing device"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestValidateUpsert(t *testing.T) {
	tests := []struct {
		name        string
		versions    []Version
		read, write Mapping
		want        []string
		errno       syscall.Errno
	}{
		{"pure overwrite", both, mapped(), Overwrite(mapped()), nil, 0},
		{"read side alone", both, mapped(), rangeOnly(TypeNoCache), nil, 0},
		{"write side alone", both, rangeOnly(TypeNoCache), mapped(), nil, 0},
		{"whole device", both, with(mapped(), func(m *Mapping) { m.Addr, m.Length = 0, 1<<30 }), Overwrite(mapped()), nil, 0},
		{"NOCACHE without a range", []Version{V7}, mapped(), Mapping{Type: TypeNoCache}, nil, 0},
		{"NOCACHE without a range", []Version{V8}, mapped(), Mapping{Type: TypeNoCache, Addr: NullAddr}, []string{"3 write length"}, EFSCORRUPTED},
		{"NOCACHE with flags", []Version{V8}, mapped(), with(rangeOnly(TypeNoCache), func(m *Mapping) { m.Flags = 1 }), []string{"11 write flags"}, EFSCORRUPTED},
		{"empty", both, with(mapped(), func(m *Mapping) { m.Length = 0 }), Overwrite(mapped()), []string{"3 read length"}, EFSCORRUPTED},
		{"unknown type", both, with(mapped(), func(m *Mapping) { m.Type = 9 }), Overwrite(mapped()), []string{"1 read type"}, EFSCORRUPTED},
		{"PURE_OVERWRITE read side", both, rangeOnly(TypePureOverwrite), mapped(), []string{"10 read type"}, EFSCORRUPTED},
		{"RETRY_CACHE", both, rangeOnly(TypeRetryCache), Overwrite(mapped()), []string{"18 read type"}, EFSCORRUPTED},
		{"unregistered", both, mapped(), with(mapped(), func(m *Mapping) { m.Dev = 5 }), []string{"14 write dev"}, EFSCORRUPTED},
		{"past the device", both, with(mapped(), func(m *Mapping) { m.Addr = 1<<30 - 4096 }), Overwrite(mapped()), []string{"20 read addr"}, EFSCORRUPTED},
		{"device of no size", both, mapped(), with(mapped(), func(m *Mapping) { m.Dev = 4 }), []string{"19 write dev"}, syscall.EINVAL},
		{"corrupt before declined", both, with(mapped(), func(m *Mapping) { m.Dev = 4 }), with(Overwrite(mapped()), func(m *Mapping) { m.Offset++ }), []string{"4 write offset", "19 read dev"}, EFSCORRUPTED},
	}
	for _, tt := range tests {
		for _, v := range tt.versions {
			env := testEnv
			env.HasCache = false // the first upsert makes the cache
			vs := ValidateUpsert(v, Upsert{tt.read, tt.write}, env)
			if got := keys(vs); !slices.Equal(got, tt.want) || vs.Errno() != tt.errno {
				t.Errorf("%s %s: got %q, %v, want %q, %v", v, tt.name, got, vs.Errno(), tt.want, tt.errno)
			}
		}
	}
}

func TestValidateInval(t *testing.T) {
	tests := []struct {
		name     string
		versions []Version
		read     Range
		write    Range
		want     []string
	}{
		{"both", both, Range{1024, 2048}, Range{0, 1024}, nil},
		{"to the end", both, Range{1024, ToEOF}, Range{0, ToEOF}, nil},
		{"nothing", both, Range{3, 0}, Range{1 << 50, 0}, nil},
		{"odd offset", both, Range{1000, 1024}, Range{}, []string{"4 read offset"}},
		{"odd offset to the end", both, Range{}, Range{1000, ToEOF}, []string{"4 write offset"}},
		{"odd length", both, Range{}, Range{1024, 1000}, []string{"4 write length"}},
		{"past the maximum", both, Range{1<<40 + 1024, 1024}, Range{}, []string{"6 read offset"}},
		{"wraps", []Version{V7}, Range{2048, 1<<64 - 1024}, Range{}, nil},
		{"wraps", []Version{V8}, Range{2048, 1<<64 - 1024}, Range{}, []string{"5 read length"}},
	}
	for _, tt := range tests {
		for _, v := range tt.versions {
			vs := ValidateInval(v, Inval{tt.read, tt.write}, testEnv)
			if got := keys(vs); !slices.Equal(got, tt.want) || len(got) > 0 && vs.Errno() != EFSCORRUPTED {
				t.Errorf("%s %s: got %q, %v, want %q", v, tt.name, got, vs.Errno(), tt.want)
			}
		}
	}
}

// The manual page has one row for each rule, under its number.
func TestRulesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/IOMAP.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(page), "\n## The rules\n")
	rules, _, _ = strings.Cut(rules, "\n## ")
	for r := RuleType; r <= RuleFitsDevice; r++ {
		if n := strings.Count(rules, fmt.Sprintf("\n| %d | ", r)); n != 1 {
			t.Errorf("docs/IOMAP.md has %d rows for rule %d, want 1", n, r)
		}
	}
	for _, n := range typeNames {
		if !strings.Contains(string(page), "`"+n.name+"`") {
			t.Errorf("docs/IOMAP.md does not mention type %s", n.name)
		}
	}
	for _, n := range flagNames {
		if !strings.Contains(string(page), "`"+n.name+"`") {
			t.Errorf("docs/IOMAP.md does not mention flag %s", n.name)
		}
	}
	for _, o := range operations {
		if !strings.Contains(string(page), "| "+o.Name+" | ") {
			t.Errorf("docs/IOMAP.md does not mention operation %s", o.Name)
		}
	}
}
