package mkfs

import (
	"context"
	"io"

	"e4go/ext4/disk"
)

// A Source yields a tree, one entry after the other. What stands in a
// directory may come before the directory itself; directories that never come are made up, as
// tar(1) does.
type Source interface {
	// Next returns the next entry, or io.EOF. Its errors name the path.
	Next(ctx context.Context) (*Entry, error)
	Close() error
}

// An Entry is one name of a tree and what it stands for.
type Entry struct {
	Path  string    // from the root, without a slash before it; "" is the root
	Mode  disk.Mode // with the type
	UID   uint32
	GID   uint32
	Mtime disk.Time
	Size  int64  // of a regular file, bytes
	Link  string // the target of a symbolic link
	Major uint32 // of a device
	Minor uint32

	// Bare is set for a root that has no owner and no mode of its own to give.
	Bare bool

	// Whiteout removes what earlier layers have at Path, and Opaque what they
	// have in it; nothing else but Path counts with Whiteout.
	Whiteout, Opaque bool

	// HardLink is the path of an entry before this one, whose other name this
	// is; nothing else but Path counts then.
	HardLink string

	// File is the same for all names that a source has for one file; the zero
	// value where the file has no others, or HardLink says so.
	File FileID

	Xattrs  []Xattr
	Flags   disk.FileFlags // those that a user can set
	Project uint32

	Content Content // of a regular file
}

// A FileID is what makes a file one: device and inode.
type FileID struct{ Dev, Ino uint64 }

// Content is what a regular file holds.
type Content interface {
	// Open returns a reader of the bytes. Content that comes once is opened once.
	Open() (Reader, error)

	// Later reports whether Open may be called when the source has gone on;
	// else the content is read before the next entry is asked for.
	Later() bool

	// Sparse reports whether there may be holes.
	Sparse() bool
}

// A Reader reads a file from front to back.
type Reader interface {
	io.Reader
	io.Closer

	// Data returns the next part [start, end) of the file at or behind off
	// that is not a hole. start is the end of the file when there is none.
	Data(off int64) (start, end int64, err error)

	// Skip goes on at off, over a hole.
	Skip(off int64) error
}

// attributed is a [Reader] that can tell more of its file than could be told
// before it was open.
type attributed interface {
	Attributes() (flags disk.FileFlags, project uint32, err error)
}

// An Xattr is an extended attribute by its full name, "user.comment".
type Xattr struct {
	Name  string
	Value []byte
}
