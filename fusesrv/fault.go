package fusesrv

import (
	"fmt"
	"runtime/debug"

	"e4go/ext4"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// fault deals with a panic of ours, where v is what recover has returned: whoever asked gets EIO, and
// nothing more is written, since what is in memory may be wrong. The log gets the stack of the first.
func (r *rawFS) fault(v any) fuse.Status {
	err := &ext4.FaultError{Value: v, Stack: debug.Stack()}
	r.reportFault(err)
	r.fs.Fail(err)
	return fuse.EIO
}

// reportFault logs a panic, and the stack of the first.
func (r *reporter) reportFault(err *ext4.FaultError) {
	r.firstFault.Do(func() { r.log.Printf("%v\n%s", err, err.Stack) })
	r.report(fmt.Sprintf("%v: the file system is read-only from now on; what was durable is safe", err))
}

// guard keeps a panic of fn from ending the server.
func (r *rawFS) guard(fn func()) {
	defer func() {
		if v := recover(); v != nil {
			r.fault(v)
		}
	}()
	fn()
}
