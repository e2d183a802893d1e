package fsck_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/ext4/fsck"
	"e4go/fixtures"
)

// sites are the structures of the image, of which large ones have many.
func (v *volume) sites() (out []site) {
	out = append(out, v.superSite())
	groups := int(v.sb.Groups())
	for _, g := range some(groups, 3) {
		out = append(out, v.descSite(disk.Group(g)))
		out = append(out, v.bitmapSites(disk.Group(g))...)
	}
	out = append(out, v.otherSites()...)
	kinds := map[string]int{}
	for ino := disk.Ino(1); uint32(ino) <= v.sb.Inodes; ino++ {
		in, err := v.fs.Inode(ino)
		if err != nil {
			if ino < v.sb.FirstIno {
				out = append(out, v.inodeSite(ino))
			}
			continue
		}
		d := in.Disk()
		if d.Links == 0 && ino >= v.sb.FirstIno {
			if uint32(ino) == v.sb.Inodes {
				out = append(out, v.inodeSite(ino))
			}
			continue
		}
		levels := 0
		if d.Flags.Has(disk.FlagExtents) {
			levels = int(disk.DecodeExtentHeader(d.Block[:]).Depth)
		} else if d.Mode.Type() == disk.ModeReg {
			levels = 10 + bytes.Count(d.Block[48:], []byte{0, 0, 0, 0})
		}
		_, ibody := disk.XattrIbodyPlace(ino, in.Raw(), 0, 0)
		kind := fmt.Sprintf("%v %x %d %t %t %t", d.Mode.Type(), d.Flags&^0x80000000, levels, d.FileACL != 0, ibody, d.Size > uint64(v.bs))
		if kinds[kind]++; ino >= v.sb.FirstIno && kinds[kind] > 1 {
			continue
		}
		out = append(out, v.inodeSite(ino))
		if ino < v.sb.FirstIno && ino != disk.RootIno && ino != disk.ResizeIno {
			continue
		}
		if !in.HasInlineData() {
			out = append(out, v.mapSites(in)...)
		}
		if in.Type() == disk.ModeDir {
			out = append(out, v.dirSites(in)...)
		}
		out = append(out, v.xattrSites(in)...)
	}
	return out
}

// values are what a field that holds b is changed to.
func values(b []byte, rng *rand.Rand) (out [][]byte) {
	add := func(fn func(c []byte)) {
		c := bytes.Clone(b)
		fn(c)
		if !bytes.Equal(c, b) && !slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, c) }) {
			out = append(out, c)
		}
	}
	fill := func(v byte) func(c []byte) {
		return func(c []byte) {
			for i := range c {
				c[i] = v
			}
		}
	}
	add(func(c []byte) { clear(c) })
	add(fill(0xff))
	if len(b) > 8 { // a whole structure
		add(fill(0x55))
		add(func(c []byte) {
			for i := range c {
				c[i] = byte(rng.Uint32())
			}
		})
		add(func(c []byte) { clear(c[len(c)/2:]) })
		return out
	}
	add(func(c []byte) { c[0] ^= 1 })
	add(func(c []byte) { c[len(c)-1] ^= 0x80 })
	add(func(c []byte) { i := rng.IntN(8 * len(c)); c[i/8] ^= 1 << (i % 8) })
	add(func(c []byte) { c[0]++ })
	return out
}

// A mutation is one change of one field, or several of those.
type mutation struct {
	image    string
	site     *site
	field    field
	old, new []byte
	repaired bool
	parts    []*mutation // if it is several
}

func (m *mutation) String() string {
	if m.parts != nil {
		var text []string
		for _, p := range m.parts {
			text = append(text, p.String())
		}
		return strings.Join(text, "; ")
	}
	short := func(b []byte) string {
		if len(b) > 8 {
			return hex.EncodeToString(b[:8]) + "..."
		}
		return hex.EncodeToString(b)
	}
	s := fmt.Sprintf("%s: %s: %s %s -> %s", m.image, m.site.what, m.field.name, short(m.old), short(m.new))
	if m.repaired {
		s += ", checksums repaired"
	}
	return s
}

// has reports whether m changes a field of that name in such a structure.
func (m *mutation) has(what, name string) bool {
	for _, p := range m.parts {
		if p.has(what, name) {
			return true
		}
	}
	return m.parts == nil && strings.HasPrefix(m.site.what, what) && strings.HasPrefix(m.field.name, name)
}

// kind is what m is of, without numbers.
func (m *mutation) kind() string {
	if m.parts != nil {
		return "several"
	}
	return digits.ReplaceAllString(m.site.what+" "+m.field.name, "N")
}

// mutate applies m and returns what takes it back; ok is false if there is
// nothing to repair.
func (v *volume) mutate(m *mutation) (undo func(), ok bool) {
	if m.parts != nil {
		var undos []func()
		for _, p := range m.parts {
			u, _ := v.mutate(p)
			undos = append(undos, u)
		}
		return func() {
			for _, u := range slices.Backward(undos) {
				u()
			}
		}, true
	}
	type saved struct {
		at int64
		b  []byte
	}
	list := []saved{{m.site.at, v.read(m.site.at, m.site.size)}}
	for _, a := range m.site.also {
		list = append(list, saved{a[0], v.read(a[0], int(a[1]))})
	}
	v.write(m.site.at+int64(m.field.off), m.new)
	ok = true
	if m.repaired {
		ok = m.site.repair != nil && m.site.repair()
	}
	return func() {
		for _, s := range list {
			v.write(s.at, s.b)
		}
	}, ok
}

// e2fsckVerdict is whether e2fsck -fn finds damage, and what.
func e2fsckVerdict(t *testing.T, file, log string) (damaged bool, codes string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	os.Remove(log)
	cmd := exec.CommandContext(ctx, "e2fsck", "-fn", "-E", "problem_log="+log, file)
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case !errors.As(err, &exit):
		t.Fatal(err)
	case ctx.Err() != nil:
		return true, "endless"
	}
	text, _ := os.ReadFile(log)
	var list []string
	for _, m := range problemCode.FindAllSubmatch(text[:min(len(text), 100_000)], -1) {
		list = append(list, string(m[1]))
	}
	slices.Sort(list)
	codes = fmt.Sprintf("%d %s", cmd.ProcessState.ExitCode(), strings.Join(slices.Compact(list), ","))
	return cmd.ProcessState.ExitCode() != 0, codes
}

var problemCode = regexp.MustCompile(`problem code="(0x[0-9a-f]+)"`)

// mutated are the images whose structures are changed: each feature is in one.
var mutated = []string{
	"ext2-1k", "ext3-4k", "ext4-1k", "ext4-4k", "ext2-rev0", "gdt-csum", "no-csum", "desc-32", "small-groups", "inode-128", "inode-1024",
	"bigalloc-16k", "inline-data", "xattr-block", "xattr-inode", "ea-inode", "quota", "project", "mmp", "orphan-file-clean", "casefold",
	"encrypted", "htree-4k", "indirect-1k", "extents-deep", "meta-bg", "sparse-super2", "verity", "hash-legacy-signed", "fast-commit-clean",
}

// TestMutation changes fields of sound images, one at a time, and asks e2fsck
// and the checker whether the result is damaged. It takes a sample;
// E4GO_FSCK_MUTATE=1 in the environment takes all, =n every nth.
func TestMutation(t *testing.T) {
	fixtures.Need(t, "e2fsck")
	every := 700
	if s := os.Getenv("E4GO_FSCK_MUTATE"); s != "" {
		var err error
		if every, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { missed.show(t) })
	only := os.Getenv("E4GO_FSCK_IMAGES")
	for _, name := range mutated {
		if only != "" && !slices.Contains(strings.Split(only, ","), name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testMutations(t, name, every)
		})
	}
}

func testMutations(t *testing.T, name string, every int) {
	original, _ := fixtures.Find(t, name).Open(t)
	file := filepath.Join(t.TempDir(), "image")
	if err := fixtures.CopySparse(file, original); err != nil {
		t.Fatal(err)
	}
	v := openVolume(t, file)
	dev, err := blockdev.Open(file, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	log := filepath.Join(t.TempDir(), "log")
	rng := rand.New(rand.NewPCG(1, uint64(len(name))))
	all := v.mutations(name, rng)
	n := 0
	found := map[string][]string{}
	var chosen []*mutation
	for i := rng.IntN(every); i < len(all); i += 1 + rng.IntN(2*every-1) {
		chosen = append(chosen, &all[i])
		if len(chosen)%4 == 0 {
			several := &mutation{image: name}
			for range 2 + rng.IntN(4) {
				several.parts = append(several.parts, &all[rng.IntN(len(all))])
			}
			chosen = append(chosen, several)
		}
	}
	for _, m := range chosen {
		undo, ok := v.mutate(m)
		if ok {
			n++
			theirs, codes := e2fsckVerdict(t, file, log)
			start := time.Now()
			report, err := fsck.Run(context.Background(), dev, fsck.Options{Workers: 1, MemoryLimit: 256 << 20})
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("%v: took %v", m, d)
			}
			ours := report.Damaged() || err != nil
			missed.note(m, codes, report)
			if ours != theirs && v.excused(m, ours, codes, report) == "" {
				text := describeAll(report.Problems, "      ")
				key := fmt.Sprintf("%s: ours %t", m.kind(), ours)
				found[key] = append(found[key], fmt.Sprintf("%v\n    e2fsck: %s\n    ours: %t %v%s", m, codes, ours, err, text[:min(len(text), 600)]))
			}
		}
		undo()
	}
	keys := make([]string, 0, len(found))
	for k := range found {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		t.Errorf("%s (%d times)\n  %s", k, len(found[k]), found[k][0])
	}
	t.Logf("%d mutations", n)
}

var digits = regexp.MustCompile(`[0-9]+`)

func (v *volume) mutations(name string, rng *rand.Rand) (out []mutation) {
	for _, s := range v.sites() {
		for _, f := range append(s.fields, field{"whole", 0, s.size}) {
			if f.off+f.n > s.size {
				continue
			}
			old := v.read(s.at+int64(f.off), f.n)
			for _, b := range values(old, rng) {
				out = append(out, mutation{image: name, site: &s, field: f, old: old, new: b})
				if s.repair != nil {
					out = append(out, mutation{image: name, site: &s, field: f, old: old, new: b, repaired: true})
				}
			}
		}
	}
	return out
}

// stricter are the problems that e2fsck 1.47.0 does not look for, and what the
// kernel says of them. docs/FORMAT.md has them at length.
var stricter = map[string]string{
	"extent-depth":           "unexpected eh_depth",
	"extent-root-depth":      "unexpected eh_depth",
	"orphan-file-hole":       "the orphan file cannot be read",
	"journal-super":          "the journal is not loaded",
	"journal-inode":          "the journal is aborted where a block is missing",
	"xattr-value-size":       "ea_inode file size differs from entry size",
	"xattr-ea-inode-feature": "ea_inode specified without ea_inode feature enabled",
	"ea-inode-entry":         "unexpected EA_INODE flag",
	"ea-inode-type":          "unexpected EA_INODE flag",
	"verity-feature":         "the file cannot be opened",
	"quota-file":             "quota is not turned on, or loses what ids use",
}

// excused says why the checker disagrees with e2fsck about a mutation, or "".
func (v *volume) excused(m *mutation, ours bool, codes string, report *fsck.Report) string {
	problems := errorsOf(report.Problems)
	if !ours {
		if m.has("journal superblock", "s_errno") {
			return "e2fsck -n fails when it wants to clear it"
		}
		if m.has("block", "name") && m.image == "casefold" && hashCodes.MatchString(codes) {
			return "e2fsck takes a name that is no UTF-8 for one without a hash"
		}
		return ""
	}
	if slices.ContainsFunc(classes(problems), func(c string) bool { return c < "0x010000" && strings.Contains(codes, c) }) {
		return "e2fsck -n forgets what it finds before pass 1"
	}
	if m.has("inode", "e_name") && slices.ContainsFunc(problems, func(p *fsck.Problem) bool {
		return p.Code == "inline-data-missing" || p.Code == "encryption-context-missing"
	}) {
		return "e2fsck finds inline data and encryption contexts by other names, too"
	}
	if m.image == "verity" && m.has("inode", "ee_block") && slices.ContainsFunc(problems, func(p *fsck.Problem) bool { return p.Code == "extent-bounds" }) {
		return "the kernel: invalid extent, as its end does not fit in 32 bits"
	}
	why := ""
	for _, p := range problems {
		switch {
		case stricter[p.Code] != "":
			why = stricter[p.Code]
		case strings.HasPrefix(p.Code, "htree-hash-") && m.has("", "name") && m.image == "casefold":
			why = "e2fsck does not compute the hash of a name that is no UTF-8"
		case p.Code == "block-bitmap" && v.ofUninit(p.Ranges), p.Code == "group-free-blocks", p.Code == "block-bitmap-checksum":
			why = "e2fsck marks the metadata of groups without a bitmap in those of others before it looks"
		default:
			return ""
		}
	}
	return why
}

// hashCodes are the status and classes of e2fsck where only hashes are wrong.
var hashCodes = regexp.MustCompile(`^4( 0x02003[678])(,0x02003[678])*$`)

// ofUninit reports whether all blocks of ranges are metadata of groups whose block
// bitmap was never written.
func (v *volume) ofUninit(ranges []fsck.Range) bool {
	owned := map[uint64]bool{}
	for g := range v.sb.Groups() {
		info, err := v.fs.Group(disk.Group(g))
		if err != nil {
			v.t.Fatal(err)
		}
		if info.Flags&disk.GroupBlockUninit == 0 {
			continue
		}
		owned[uint64(info.BlockBitmap)], owned[uint64(info.InodeBitmap)] = true, true
		for i := range uint64(v.sb.ItableBlocks()) {
			owned[uint64(info.InodeTable)+i] = true
		}
	}
	for _, r := range ranges {
		for b := r.First; b <= r.Last; b++ {
			if !owned[b] {
				return false
			}
		}
	}
	return true
}

// missed counts, by class, the mutations of which e2fsck names a class of problem
// that the checker does not name. It is only shown: one problem hides others, and
// which ones depends on the order of the checks.
var missed missedClasses

type missedClasses struct {
	mu      sync.Mutex
	count   map[string]int    // guarded by mu
	example map[string]string // guarded by mu
}

func (c *missedClasses) note(m *mutation, codes string, report *fsck.Report) {
	_, list, _ := strings.Cut(codes, " ")
	have := classes(report.Problems)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == nil {
		c.count, c.example = map[string]int{}, map[string]string{}
	}
	for _, class := range strings.Split(list, ",") {
		if class != "" && !slices.Contains(have, class) {
			if c.count[class]++; c.example[class] == "" {
				c.example[class] = fmt.Sprintf("%v\n    e2fsck: %s\n    ours: %v", m, codes, have)
			}
		}
	}
}

func (c *missedClasses) show(t *testing.T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, class := range slices.Sorted(maps.Keys(c.count)) {
		t.Logf("class %s not named %d times, as for\n  %s", class, c.count[class], c.example[class])
	}
}

// errorsOf are the problems, with those that follow, that are damage.
func errorsOf(list []*fsck.Problem) (out []*fsck.Problem) {
	for _, p := range list {
		if p.Severity == fsck.Error {
			out = append(out, p)
		}
		out = append(out, errorsOf(p.Follows)...)
	}
	return out
}
