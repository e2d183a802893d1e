package simkernel

import "e4go/iomap"

// What the messages of an event say, for those of fuse-iomap. Each is only to be called for an event of
// its Opcode, a reply's only if Err is nil.

// Begin is the question of a BEGIN.
func (e Event) Begin() iomap.Request {
	return iomap.Request{Op: iomap.Op(le.Uint32(e.Request)), Pos: le.Uint64(e.Request[16:]), Count: le.Uint64(e.Request[24:])}
}

// BeginReply is its answer.
func (e Event) BeginReply() iomap.Reply {
	return iomap.Reply{Read: readMapping(e.Reply), Write: readMapping(e.Reply[mappingSize:])}
}

// End is an END.
func (e Event) End() iomap.End {
	r := e.Request
	return iomap.End{
		Op: iomap.Op(le.Uint32(r)), AttrIno: le.Uint64(r[8:]), Pos: le.Uint64(r[16:]), Count: le.Uint64(r[24:]),
		Written: int64(le.Uint64(r[32:])), Map: readMapping(r[40:]),
	}
}

// Ioend is an IOEND.
func (e Event) Ioend() iomap.Ioend {
	r := e.Request
	return iomap.Ioend{
		Flags: iomap.IoendFlags(le.Uint32(r)), Error: int32(le.Uint32(r[4:])), AttrIno: le.Uint64(r[8:]), Pos: le.Uint64(r[16:]),
		NewAddr: le.Uint64(r[24:]), Written: le.Uint64(r[32:]), Dev: le.Uint32(r[40:]),
	}
}

// IoendReply is the file's size in its answer.
func (e Event) IoendReply() uint64 { return le.Uint64(e.Reply) }
