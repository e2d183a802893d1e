package fusesrv

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/iomap/simkernel"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// TestFrozenForgets: what is deleted, closed and forgotten while the file system is frozen waits
// for the thaw, however much it is, and does not keep the server from hearing of that.
func TestFrozenForgets(t *testing.T) {
	defer watch("thawing")()
	dev := mkfsMem(t, 64<<20, "-t ext4 -N 4096")
	m := mountMapped(t, dev, simkernel.Options{})
	open := func(i int) *simkernel.File {
		f, err := m.k.Open(nobody, fmt.Sprintf("/f%d", i), syscall.O_RDWR|syscall.O_CREAT, 0o644)
		check(t, err)
		return f
	}
	for i := range 1500 { // more than any queue has room for
		check(t, open(i).Close())
	}
	var files []*simkernel.File
	for i := range 100 {
		f := open(i)
		check(t, writeAll(f, make([]byte, 5000), 0))
		check(t, m.k.Unlink(nobody, fmt.Sprintf("/f%d", i)))
		files = append(files, f)
	}
	check(t, m.k.Freeze())
	for _, f := range files {
		check(t, f.Close())
	}
	check(t, m.k.Evict())
	for range 200 { // until the server has read what was forgotten
		_, err := m.k.Stat(nobody, "/")
		check(t, err)
	}
	check(t, m.k.Thaw())
	m.unmount()
	if err := checkers(t, dev, false); err != nil {
		t.Error(err)
	}
}

// isClean reports whether the superblock says that there is nothing to recover.
func isClean(dev blockdev.Device) bool {
	p := make([]byte, 4)
	dev.ReadAt(p, 1024+0x60) // s_feature_incompat
	return le.Uint32(p)&0x4 == 0
}

// evicted waits until what was deleted is gone: it is not the kernel's to wait for.
func (m *mapped) evicted() {
	m.t.Helper()
	for range 2000 {
		list, err := m.fs.Orphans()
		check(m.t, err)
		if len(list) == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	m.t.Fatal("deleted files are still there")
}

// TestMappedFreeze: while the file system is frozen its device is that of an unmounted one, with
// all that was written before: a copy needs no recovery, and a power cut loses nothing. Reading goes on.
func TestMappedFreeze(t *testing.T) {
	for _, kind := range mappedKinds {
		t.Run(kind.name, func(t *testing.T) {
			base := mkfsMem(t, kind.size<<20, kind.args)
			for seed := range seeds(t, 1) {
				dev := base.Clone()
				m := mountMapped(t, dev, simkernel.Options{Seed: seed, Unrest: 0.3})
				p := newProgram(m, seed+500, kind.name != "indirect")
				rng := rand.New(rand.NewPCG(seed, 9))
				for round := range 8 {
					check(t, p.run(15, nil))
					m.evicted()
					check(t, m.k.Freeze())
					for _, x := range p.files {
						check(t, p.compare(x))
						if x.f != nil {
							x.synced, x.known = append([]byte{}, x.data...), true
						}
					}
					for what, copy := range map[string]*blockdev.Mem{"copy": dev.Clone(), "power cut": dev.Crash(rng)} {
						if !isClean(copy) {
							t.Errorf("%s: it is to be recovered", what)
						}
						if round%4 == 0 {
							if err := checkers(t, copy, false); err != nil {
								t.Errorf("%s: %v", what, err)
							}
						}
						p.onDevice(copy)
					}
					check(t, m.k.Thaw())
					if isClean(dev) {
						t.Error("thawed, it does not say that it is in use")
					}
					p.afterCut(dev.Crash(rng), false)
					if t.Failed() {
						t.Fatalf("seed %d, round %d", seed, round)
					}
				}
				p.closeAll()
				m.unmount()
				p.onDevice(dev)
				e2fsckMem(t, dev, false)
			}
		})
	}
}

// TestFrozenForever: a connection that ends while the file system is frozen, with a file to be deleted and a
// request that waits for the thaw, ends the server.
func TestFrozenForever(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(*simkernel.Kernel) error
	}{
		{"killed", func(k *simkernel.Kernel) error { k.Kill(); return nil }},
		{"unmounted", (*simkernel.Kernel).Unmount},
	} {
		t.Run(end.name, func(t *testing.T) {
			defer watch("a frozen file system that is " + end.name)()
			dev := mkfsMem(t, 32<<20, "-t ext4")
			m := mountMapped(t, dev, simkernel.Options{})
			f, _ := m.node("/f", 0)
			check(t, writeAll(f, make([]byte, 5000), 0))
			check(t, m.k.Unlink(nobody, "/f"))
			check(t, m.k.Freeze())
			check(t, f.Close())
			var waits sync.WaitGroup
			waits.Go(func() { m.k.Mkdir(nobody, "/d", 0o755) })
			for m.k.Counts()["MKDIR"] == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(10 * time.Millisecond) // until it is read
			check(t, end.do(m.k))
			waits.Wait()
			m.stop()
			check(t, m.fs.Close())
			if err := checkers(t, dev, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMappedUnderLoad: synced, frozen, thawed, and at last shut down, unmounted or cut off, while many write: nothing hangs,
// frozen copies are sound as they are, and power cuts leave what was synced and nobody else's bytes.
func TestMappedUnderLoad(t *testing.T) {
	for seed, end := range []string{"unmount", "shutdown", "kill"} {
		t.Run(end, func(t *testing.T) {
			defer watch(end + " under load")()
			dev := mkfsMem(t, 64<<20, "-t ext4")
			m := mountMapped(t, dev, simkernel.Options{Seed: uint64(seed), Unrest: 0.2})
			durable := bytes.Repeat([]byte{0xee}, 70_000)
			f, _ := m.node("/durable", 0)
			check(t, errors.Join(writeAll(f, durable, 0), f.Fsync(false), f.Close()))

			var stop atomic.Bool
			var gate sync.RWMutex // a frozen kernel lets nobody in who wants to write
			var load sync.WaitGroup
			const writers = 4
			for g := range writers {
				load.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(g), uint64(seed)))
					name := fmt.Sprintf("/f%d", g)
					for i := 0; !stop.Load(); i++ {
						gate.RLock()
						f, err := m.k.Open(nobody, name, syscall.O_RDWR|syscall.O_CREAT, 0o644)
						if err == nil {
							p := bytes.Repeat([]byte{byte(1 + g)}, 1+rng.IntN(20_000))
							for range 5 {
								f.WriteAt(p, rng.Int64N(200_000))
							}
							f.Truncate(rng.Int64N(200_000))
							f.Close()
						}
						if i%8 == 7 {
							m.k.Unlink(nobody, name)
						}
						gate.RUnlock()
					}
				})
			}
			rng := rand.New(rand.NewPCG(uint64(seed), 10))
			judge := func(dev *blockdev.Mem) {
				t.Helper()
				fs, err := ext4.Open(dev, ext4.Options{})
				check(t, err)
				defer fs.Close()
				if data, err := readWhole(fs, "/durable"); err != nil || !bytes.Equal(data, durable) {
					t.Errorf("what was synced: %d bytes, %v", len(data), err)
				}
				for g := range writers {
					data, _ := readWhole(fs, fmt.Sprintf("/f%d", g))
					if i := slices.IndexFunc(data, func(b byte) bool { return b != 0 && b != byte(1+g) }); i >= 0 {
						t.Errorf("byte %d of /f%d is %d", i, g, data[i])
					}
				}
			}
			for round := range 6 {
				check(t, m.k.SyncFS())
				judge(crashed(dev, rng))
				gate.Lock()
				m.evicted()
				check(t, m.k.Freeze())
				copy := dev.Clone()
				check(t, m.k.Thaw())
				gate.Unlock()
				if !isClean(copy) {
					t.Error("a frozen copy is to be recovered")
				}
				if round%3 == 0 {
					if err := checkers(t, copy, false); err != nil {
						t.Errorf("a frozen copy: %v", err)
					}
				}
				judge(copy)
			}
			switch end {
			case "shutdown":
				if status := m.s.raw.maps.Shutdown(); status != fuse.OK {
					t.Errorf("shutdown: %v", status)
				}
				if _, err := m.k.Open(nobody, "/other", syscall.O_RDWR|syscall.O_CREAT, 0o644); !errors.Is(err, syscall.EIO) {
					t.Errorf("a file made after a shutdown: %v, want EIO", err)
				}
			case "kill":
				m.k.Kill()
			}
			stop.Store(true)
			load.Wait()
			m.k.Unmount()
			m.stop()
			err := m.fs.Close()
			if end == "unmount" && err != nil {
				t.Errorf("close: %v", err)
			}
			judge(dev.Clone())
			judge(crashed(dev, rng))
			e2fsckMem(t, dev, end == "shutdown")
		})
	}
}

// crashed is a power cut that has not torn the superblock: see docs/CRASH.md.
func crashed(dev *blockdev.Mem, rng *rand.Rand) *blockdev.Mem {
	for {
		out := dev.Crash(rng)
		fs, err := ext4.Open(out, ext4.Options{})
		if err == nil {
			fs.Close()
			return out
		}
		if bad := (*disk.CorruptError)(nil); !errors.As(err, &bad) || bad.Field != "s_checksum" {
			return out
		}
	}
}
