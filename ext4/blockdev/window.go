package blockdev

// A Window is a part of a device, seen as a device of its own.
type Window struct {
	base Device // immutable
	off  int64  // immutable, bytes into base
	size int64  // immutable, bytes
}

// NewWindow returns the n bytes of d at off, or all from off on if n is 0. It
// fails with a *[RangeError] if d does not have them. Closing it closes d.
func NewWindow(d Device, off, n int64) (*Window, error) {
	if err := checkRange("window", off, n, d.Size()); err != nil {
		return nil, err
	}
	if n == 0 {
		n = d.Size() - off
	}
	return &Window{base: d, off: off, size: n}, nil
}

// Base returns the device that w is a part of.
func (w *Window) Base() Device { return w.base }

// Offset returns where w begins in its base, in bytes.
func (w *Window) Offset() int64 { return w.off }

// ReadAt implements [Device].
func (w *Window) ReadAt(p []byte, off int64) (int, error) {
	q, eof := clip(p, off, w.size)
	if len(q) == 0 {
		return 0, eof
	}
	n, err := readFull(w.base, q, w.off+off)
	if err == nil {
		err = eof
	}
	return n, err
}

// WriteAt implements [Device].
func (w *Window) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange("write", off, int64(len(p)), w.size); err != nil {
		return 0, err
	}
	return w.base.WriteAt(p, w.off+off)
}

// Discard implements [Device].
func (w *Window) Discard(off, n int64) error {
	if err := checkRange("discard", off, n, w.size); err != nil {
		return err
	}
	return w.base.Discard(w.off+off, n)
}

// Flush makes all of the base durable.
func (w *Window) Flush() error { return w.base.Flush() }

// Size implements [Device].
func (w *Window) Size() int64 { return w.size }

// Close closes the base.
func (w *Window) Close() error { return w.base.Close() }
