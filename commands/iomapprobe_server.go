package commands

import (
	"context"
	"errors"
	"fmt"

	"e4go/ext4"
	"e4go/ext4/blockdev"
	"e4go/ext4/disk"
	"e4go/iomap"
	"e4go/iomap/ext4map"

	"golang.org/x/sys/unix"
)

// What a question of the write class changes, it changes in memory: the image
// is opened once more, for writing, above an overlay.

// A probeServer answers questions about one file as the server of a mount does.
type probeServer struct {
	fs    *ext4.FS
	dev   blockdev.Device
	s     *ext4map.Server
	ino   disk.Ino
	cache []iomap.Upsert // what the kernel's mapping cache would have been given since the last question
}

// Upsert and Invalidate are the kernel's cache.
func (p *probeServer) Upsert(_ disk.Ino, u iomap.Upsert) error {
	p.cache = append(p.cache, u)
	return nil
}

func (p *probeServer) Invalidate(disk.Ino, iomap.Inval) error { return nil }

// overlaid opens the file system of im for writing, in memory.
func overlaid(ctx context.Context, im *image) (*ext4.FS, blockdev.Device, error) {
	if im.live {
		return nil, nil, &pathError{im.path, fmt.Errorf("it is mounted, and what the mount has not written yet is not to be seen: operations that write can be asked of an image or a copy: %w", unix.EBUSY)}
	}
	opts := im.opts
	opts.Write = true
	if opts.Journal != nil {
		opts.Journal = blockdev.NewOverlay(opts.Journal)
	}
	dev := blockdev.NewOverlay(im.dev)
	fs, err := ext4.OpenContext(ctx, dev, opts)
	if err != nil {
		return nil, nil, &pathError{im.path, err}
	}
	return fs, dev, nil
}

// abandon closes what overlaid has opened, without writing it anywhere.
func abandon(fs *ext4.FS) {
	_ = errors.Join(fs.Shutdown(ext4.ShutdownNoLogFlush), fs.Close()) // it is only memory
}

// newProbeServer returns a server for the file ino of im.
func newProbeServer(ctx context.Context, im *image, ino disk.Ino) (*probeServer, error) {
	fs, dev, err := overlaid(ctx, im)
	if err != nil {
		return nil, err
	}
	p := &probeServer{fs: fs, dev: dev, ino: ino}
	p.s = ext4map.NewServer(fs, 1, 0, p)
	return p, nil
}

func (p *probeServer) close() { abandon(p.fs) }

// begin asks one question.
func (p *probeServer) begin(ctx context.Context, req iomap.Request) (iomap.Reply, error) {
	p.cache = nil
	return p.s.Begin(ctx, ext4.Root, p.ino, req)
}

// env is what the kernel judges by: the device open for writing, and a mapping cache if
// something was put into it.
func (p *probeServer) env() iomap.Env {
	env := ext4map.Env(p.fs)
	d := env.Devices[1]
	d.Writable = true
	env.Devices[1] = d
	env.HasCache = len(p.cache) > 0
	return env
}
