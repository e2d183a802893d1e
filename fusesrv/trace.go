package fusesrv

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"e4go/iomap"

	"golang.org/x/sys/unix"
)

// A tracer writes one JSON object a line for each request that was answered
// and each notification that was sent, for who tests a kernel or a file system. A nil
// tracer writes nothing.
type tracer struct {
	verdict func(iomap.Request, iomap.Reply) iomap.Violations // of answers to BEGIN

	mu  sync.Mutex
	enc *json.Encoder // guarded by mu
	err error         // guarded by mu: the first; nothing is written after it
}

func newTracer(w io.Writer, verdict func(iomap.Request, iomap.Reply) iomap.Violations) *tracer {
	if w == nil {
		return nil
	}
	return &tracer{enc: json.NewEncoder(w), verdict: verdict}
}

// A traceLine is a line of a trace: docs/IOMAP.md.
type traceLine struct {
	Time   time.Time `json:"time"` // when it was read
	Op     string    `json:"op"`
	Node   uint64    `json:"node"`
	UID    uint32    `json:"uid"`
	NS     int64     `json:"ns"` // until it was answered
	Size   int       `json:"size"`
	Errno  string    `json:"errno,omitempty"`
	Detail any       `json:"request,omitempty"`
	Reply  any       `json:"reply,omitempty"`
	Rules  []string  `json:"verdict,omitempty"` // the rules that the answer breaks
}

type traceMapping struct {
	Offset uint64   `json:"offset"`
	Length uint64   `json:"length"`
	Addr   *uint64  `json:"addr"`
	Type   string   `json:"type"`
	Flags  []string `json:"flags,omitempty"`
	Dev    uint32   `json:"dev"`
}

func traceOf(m iomap.Mapping) traceMapping {
	t := traceMapping{Offset: m.Offset, Length: m.Length, Type: m.Type.String(), Flags: m.Flags.Names(), Dev: m.Dev}
	if m.Addr != iomap.NullAddr {
		t.Addr = &m.Addr
	}
	return t
}

type traceRange struct {
	Ops     []string      `json:"opflags,omitempty"`
	Flags   []string      `json:"ioend_flags,omitempty"`
	Pos     uint64        `json:"pos"`
	Count   uint64        `json:"count,omitempty"`
	Written *int64        `json:"written,omitempty"`
	Error   int32         `json:"error,omitempty"`
	Map     *traceMapping `json:"map,omitempty"`
}

type traceReply struct {
	Read  traceMapping `json:"read"`
	Write traceMapping `json:"write"`
}

// answered writes the line of a request: its body, and its answer with the header, which is
// empty where it has none, or went by splice.
func (t *tracer) answered(began time.Time, op uint32, head, body, answer []byte) {
	l := traceLine{
		Time: began, Op: opcodeName(op), Node: le.Uint64(head[16:]), UID: le.Uint32(head[24:]),
		NS: time.Since(began).Nanoseconds(), Size: len(body),
	}
	ok := len(answer) >= outHeaderSize
	if ok {
		if errno := -int32(le.Uint32(answer[4:])); errno != 0 {
			l.Errno, ok = unix.ErrnoName(unix.Errno(errno)), false
		}
	}
	switch iomap.Opcode(op) {
	case iomap.OpcodeBegin:
		if _, r, err := decodeBegin(body); err == nil {
			l.Detail = traceRange{Ops: r.Op.Names(), Pos: r.Pos, Count: r.Count}
			if ok && len(answer) == outHeaderSize+replySize {
				reply := iomap.Reply{Read: decodeMapping(answer[outHeaderSize:]), Write: decodeMapping(answer[outHeaderSize+mappingSize:])}
				l.Reply = traceReply{traceOf(reply.Read), traceOf(reply.Write)}
				for _, v := range t.verdict(r, reply) {
					l.Rules = append(l.Rules, v.Error())
				}
			}
		}
	case iomap.OpcodeEnd:
		if e, err := decodeEnd(body); err == nil {
			m := traceOf(e.Map)
			l.Detail = traceRange{Ops: e.Op.Names(), Pos: e.Pos, Count: e.Count, Written: &e.Written, Map: &m}
		}
	case iomap.OpcodeIoend:
		if e, err := decodeIoend(body); err == nil {
			written := int64(e.Written)
			l.Detail = traceRange{Flags: e.Flags.Names(), Pos: e.Pos, Written: &written, Error: e.Error}
			if ok && len(answer) == outHeaderSize+8 {
				l.Reply = map[string]uint64{"size": le.Uint64(answer[outHeaderSize:])}
			}
		}
	}
	t.write(l)
}

// notified writes the line of a notification, b with its header, and what came of it.
func (t *tracer) notified(b []byte, err error) {
	l := traceLine{Time: time.Now(), Op: iomap.NotifyCode(le.Uint32(b[4:])).String(), Size: len(b) - outHeaderSize}
	if errno, ok := err.(unix.Errno); ok {
		l.Errno = unix.ErrnoName(errno)
	} else if err != nil {
		l.Errno = "EIO"
	}
	body := b[outHeaderSize:]
	if len(body) >= 8 {
		l.Node = le.Uint64(body)
	}
	switch iomap.NotifyCode(le.Uint32(b[4:])) {
	case iomap.NotifyUpsertMappings:
		l.Detail = traceReply{traceOf(decodeMapping(body[16:])), traceOf(decodeMapping(body[48:]))}
	case iomap.NotifyInvalMappings:
		l.Detail = map[string]uint64{"offset": le.Uint64(body[16:]), "length": le.Uint64(body[24:])}
	}
	t.write(l)
}

func (t *tracer) write(l traceLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = t.enc.Encode(l)
	}
}

// opcodeName is the kernel's name of an opcode.
func opcodeName(op uint32) string {
	if op >= uint32(iomap.OpcodeFreezeFS) && op <= uint32(iomap.OpcodeEnd) {
		return iomap.Opcode(op).String()
	}
	if int(op) < len(opcodeNames) && opcodeNames[op] != "" {
		return "FUSE_" + opcodeNames[op]
	}
	return fmt.Sprintf("opcode %d", op)
}

// opcodeNames are those of include/uapi/linux/fuse.h, without FUSE_.
var opcodeNames = [...]string{
	1: "LOOKUP", 2: "FORGET", 3: "GETATTR", 4: "SETATTR", 5: "READLINK", 6: "SYMLINK", 8: "MKNOD", 9: "MKDIR", 10: "UNLINK",
	11: "RMDIR", 12: "RENAME", 13: "LINK", 14: "OPEN", 15: "READ", 16: "WRITE", 17: "STATFS", 18: "RELEASE", 20: "FSYNC",
	21: "SETXATTR", 22: "GETXATTR", 23: "LISTXATTR", 24: "REMOVEXATTR", 25: "FLUSH", 26: "INIT", 27: "OPENDIR", 28: "READDIR",
	29: "RELEASEDIR", 30: "FSYNCDIR", 31: "GETLK", 32: "SETLK", 33: "SETLKW", 34: "ACCESS", 35: "CREATE", 36: "INTERRUPT",
	37: "BMAP", 38: "DESTROY", 39: "IOCTL", 40: "POLL", 42: "BATCH_FORGET", 43: "FALLOCATE", 44: "READDIRPLUS", 45: "RENAME2",
	46: "LSEEK", 47: "COPY_FILE_RANGE", 50: "SYNCFS", 51: "TMPFILE", 52: "STATX",
}
