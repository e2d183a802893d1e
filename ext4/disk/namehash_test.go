package disk_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"e4go/ext4/disk"
	"e4go/fixtures"
)

// Hashes are those of e2fsprogs, for every version, names of all lengths and
// bytes over 127.
func TestNameHashDebugfs(t *testing.T) {
	fixtures.Need(t, "debugfs")
	names := [][]byte{[]byte("a"), []byte("lost+found"), []byte("..."), []byte("Stra\xc3\x9fe"), []byte("\x80"), []byte("\xff\xff\xff\xff")}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= disk.MaxNameLen; n++ {
		name := make([]byte, n)
		for i := range name {
			for name[i] <= ' ' || name[i] == '"' || i == 0 && name[i] == '-' { // what debugfs takes in quotes
				name[i] = byte(rng.Uint32())
			}
		}
		names = append(names, name, bytes.Repeat([]byte{0xfe}, n))
	}
	seeds := []struct {
		uuid string
		seed [4]uint32
	}{
		{"00000000-0000-0000-0000-000000000000", [4]uint32{}},
		{"5eed5eed-1111-4111-8111-0badcafe0001", [4]uint32{0xed5eed5e, 0x11411111, 0xad0b1181, 0x0100feca}},
	}

	type question struct {
		v    disk.HashVersion
		seed [4]uint32
		name []byte
	}
	var questions []question
	var requests bytes.Buffer
	for v := disk.HashLegacy; v <= disk.HashTeaUnsigned; v++ {
		for _, s := range seeds {
			for _, name := range names {
				questions = append(questions, question{v, s.seed, name})
				fmt.Fprintf(&requests, "dx_hash -h %d -s %s \"%s\"\n", v, s.uuid, name)
			}
		}
	}
	cmd := exec.Command("debugfs", "-f", "-", mkfs(t, 1<<20, "-O", "none,dir_index"))
	cmd.Stdin = &requests
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	answers := regexp.MustCompile(`(?m)^Hash of (?s:.{1,255}?) is 0x([0-9a-f]+) \(minor 0x([0-9a-f]+)\)$`).FindAllSubmatch(out, -1)
	if len(answers) != len(questions) {
		t.Fatalf("debugfs answered %d of %d", len(answers), len(questions))
	}
	for i, q := range questions {
		wantHash, err1 := strconv.ParseUint(string(answers[i][1]), 16, 32)
		wantMinor, err2 := strconv.ParseUint(string(answers[i][2]), 16, 32)
		if err1 != nil || err2 != nil {
			t.Fatalf("debugfs: %q", answers[i][0])
		}
		hash, minor, ok := disk.NameHash(q.v, q.seed, q.name)
		if !ok || hash != uint32(wantHash) || minor != uint32(wantMinor) {
			t.Errorf("%v, seed %x, %q: got %#x %#x %t, want %#x %#x", q.v, q.seed, q.name, hash, minor, ok, wantHash, wantMinor)
		}
	}
}

// Names of casefolded directories are hashed when they are folded.
func TestNameHashFolded(t *testing.T) {
	img := mkfs(t, 1<<20, "-O", "none,dir_index")
	out := fixtures.Debugfs(t, img, `dx_hash -h half_md4 -c -e utf8 "ABC"`)
	hash, _, _ := disk.NameHash(disk.HashHalfMD4, [4]uint32{}, []byte("abc"))
	if want := fmt.Sprintf("is %#08x ", hash); !strings.Contains(out, want) {
		t.Errorf("debugfs says %q, want %q", out, want)
	}
}

// Names in trees that the kernel made stand where their hashes belong.
func TestHashesOfImages(t *testing.T) {
	fixtures.Need(t, "mke2fs", "debugfs", "root", "loop")
	for _, tt := range []struct {
		image string
		want  disk.HashVersion
	}{
		{"hash-legacy-signed", disk.HashLegacy}, {"hash-half_md4-signed", disk.HashHalfMD4}, {"hash-tea-signed", disk.HashTea},
		{"hash-legacy-unsigned", disk.HashLegacyUnsigned}, {"hash-half_md4-unsigned", disk.HashHalfMD4Unsigned}, {"hash-tea-unsigned", disk.HashTeaUnsigned},
	} {
		t.Run(tt.image, func(t *testing.T) {
			file, _ := fixtures.Find(t, tt.image).Open(t)
			v := openVolume(t, file)
			trees := v.eachHashTree(func(root []byte, block func(disk.LBlock) []byte) {
				head := disk.DecodeDxRoot(root)
				version := v.sb.EffectiveHash(head.HashVersion)
				if version != tt.want {
					t.Errorf("got %v, want %v", version, tt.want)
				}
				v.checkHashes(disk.DxRootNode(root), int(head.Levels), version, 0, 1<<32, block)
			})
			if trees == 0 {
				t.Error("no hash tree found")
			}
		})
	}
}

// checkHashes checks that the names below node, levels of nodes down, have
// hashes in the range that its entries give them; node has those from low to
// below high. The low bit of an entry's hash says that names of that hash
// stand in the leaf before, too.
func (v *volume) checkHashes(node disk.DxNode, levels int, version disk.HashVersion, low, high uint64, block func(disk.LBlock) []byte) {
	v.t.Helper()
	for i := range node.Count() {
		from, to := low, high
		if i > 0 {
			from = uint64(node.Entry(i).Hash &^ 1)
		}
		if i+1 < node.Count() {
			next := node.Entry(i + 1).Hash
			to = uint64(next&^1) + uint64(next&1)
		}
		b := block(node.Entry(i).Block)
		if levels > 0 {
			v.checkHashes(disk.DxInnerNode(b), levels-1, version, from, to, block)
			continue
		}
		entries, _ := disk.DirTail(b)
		names := 0
		for off := 0; off < len(entries); {
			d := disk.DecodeDirent(entries[off:], v.sb.BlockSize())
			if d.Ino != 0 {
				name := entries[off+disk.DirentHeaderSize:][:d.NameLen]
				if hash, _, _ := disk.NameHash(version, v.sb.HashSeed, name); uint64(hash) < from || uint64(hash) >= to {
					v.t.Errorf("%q has hash %#x in a leaf from %#x to %#x", name, hash, from, to)
				}
				names++
			}
			off += d.RecLen
		}
		if names == 0 {
			v.t.Errorf("no names in the leaf from %#x on", from)
		}
	}
}
