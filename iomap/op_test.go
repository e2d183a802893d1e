package iomap

import "testing"

// The opflags of each operation, as numbers: they are the kernel's.
func TestOperations(t *testing.T) {
	tests := []struct {
		name  string
		op    uint32
		write bool
	}{
		{"report", 0x4, false},
		{"read", 0, false},
		{"readahead", 0, false},
		{"dio-read", 0x10, false},
		{"bmap", 0x4, false},
		{"seek", 0x4, false},
		{"swapon", 0x40000004, false},
		{"write", 0x1, true},
		{"mkwrite", 0x9, true},
		{"writeback", 0x80000000, true},
		{"dio-write", 0x11, true},
		{"atomic", 0x211, true},
		{"zero", 0x2, true},
	}
	if got := len(Operations()); got != len(tests) {
		t.Errorf("there are %d operations, want %d", got, len(tests))
	}
	for i, tt := range tests {
		o, err := ParseOperation(tt.name)
		if err != nil || o.Op != Op(tt.op) || o.Op.IsWrite() != tt.write {
			t.Errorf("%s: got %v, write class %t, %v; want %#x, write class %t",
				tt.name, o.Op, o.Op.IsWrite(), err, tt.op, tt.write)
		}
		if listed := Operations()[i]; listed != o || o.For == "" || o.Range == "" {
			t.Errorf("operation %d is %+v, want %s, with what sends it and its range", i, listed, tt.name)
		}
	}
	if _, err := ParseOperation("reed"); err == nil {
		t.Error("ParseOperation(reed) succeeded")
	}
	Operations()[0].Name = "changed"
	if Operations()[0].Name != "report" {
		t.Error("a caller changed the table")
	}
}

func TestWriteClass(t *testing.T) {
	for bit := range 32 {
		op := Op(1) << bit
		want := op == 0x1 || op == 0x2 || op == 0x80 || op == 0x80000000
		if op.IsWrite() != want {
			t.Errorf("%s: write class %t, want %t", op, op.IsWrite(), want)
		}
		if want := op == 0x200 || op == 0x40000000; op.Uncached() != want {
			t.Errorf("%s: uncached %t, want %t", op, op.Uncached(), want)
		}
	}
}

func TestMessageNumbers(t *testing.T) {
	for want, c := range map[uint32]Opcode{
		4089: OpcodeFreezeFS, 4090: OpcodeUnfreezeFS, 4091: OpcodeShutdownFS, 4092: OpcodeConfig,
		4093: OpcodeIoend, 4094: OpcodeBegin, 4095: OpcodeEnd,
	} {
		if uint32(c) != want {
			t.Errorf("%s is %d, want %d", c, uint32(c), want)
		}
	}
	tests := []struct{ got, want string }{
		{OpcodeFreezeFS.String(), "FUSE_FREEZE_FS"},
		{OpcodeUnfreezeFS.String(), "FUSE_UNFREEZE_FS"},
		{OpcodeShutdownFS.String(), "FUSE_SHUTDOWN_FS"},
		{OpcodeConfig.String(), "FUSE_IOMAP_CONFIG"},
		{OpcodeIoend.String(), "FUSE_IOMAP_IOEND"},
		{OpcodeBegin.String(), "FUSE_IOMAP_BEGIN"},
		{OpcodeEnd.String(), "FUSE_IOMAP_END"},
		{Opcode(1).String(), "opcode 1"},
		{NotifyCode(99).String(), "FUSE_NOTIFY_IOMAP_DEV_INVAL"},
		{NotifyCode(100).String(), "FUSE_NOTIFY_IOMAP_UPSERT_MAPPINGS"},
		{NotifyCode(101).String(), "FUSE_NOTIFY_IOMAP_INVAL_MAPPINGS"},
		{NotifyCode(8).String(), "notification 8"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

func TestConsumed(t *testing.T) {
	here := Mapping{Offset: 0, Length: 4096, Addr: 8192, Type: TypeMapped, Dev: 1}
	there := Mapping{Offset: 0, Length: 4096, Addr: 65536, Type: TypeUnwritten, Dev: 1}
	tests := []struct {
		op       Op
		write    Mapping
		src, dst Mapping
	}{
		{0, Overwrite(here), here, here},
		{0, there, here, here}, // judged, but not used
		{OpReport, there, here, here},
		{OpWrite, Overwrite(here), here, here},
		{OpWrite, there, here, there},
		{OpWriteback, there, here, there},
		{OpZero, there, here, there},
		{OpUnshare, there, here, there},
	}
	for _, tt := range tests {
		src, dst := Consumed(tt.op, Reply{here, tt.write})
		if src != tt.src || dst != tt.dst {
			t.Errorf("%s, write side %v:\ngot  from %v to %v\nwant from %v to %v", tt.op, tt.write, src, dst, tt.src, tt.dst)
		}
	}
}
