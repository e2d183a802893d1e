package iomap

import (
	"math"
	"math/rand/v2"
	"testing"
)

// acceptable is Validate said once more, as one condition, and with the sums
// turned into differences. It knows no rule numbers and does not explain.
func acceptable(v Version, req Request, reply Reply, env Env) bool {
	const most = math.MaxUint64
	whole := func(n uint64) bool { return env.BlockSize > 0 && n%env.BlockSize == 0 }
	for i, m := range []Mapping{reply.Read, reply.Write} {
		inside := m.Length <= most-m.Offset && req.Pos >= m.Offset && req.Pos < m.Offset+m.Length
		placed := m.Length <= most-m.Addr
		shape := m.Flags < 256 && m.Length > 0 && whole(m.Offset) && whole(m.Length) && m.Offset < env.MaxBytes
		nowhere := m.Dev == 0 && m.Addr == NullAddr
		nothing := nowhere && m.Flags == 0
		_, registered := env.Devices[m.Dev]
		var ok bool
		switch m.Type {
		case 0, 1, 4:
			ok = shape && nowhere
		case 2, 3:
			ok = shape && m.Dev != 0 && registered && m.Addr != NullAddr && placed
		case 254:
			ok = env.HasCache && (v == V7 || shape && nothing)
			ok = ok && (v == V7 || i == 1 || req.Op&0x40000200 == 0)
		case 255:
			ok = i == 1 && shape && (v == V7 && (m.Addr == NullAddr || placed) || nothing)
		}
		if !ok || !inside {
			return false
		}
	}
	if v == V7 {
		return true
	}
	write := req.Op&0x80000083 != 0
	target := reply.Read
	if write && reply.Write.Type != 255 {
		target = reply.Write
	}
	if req.Op&0x200 != 0 && (target.Flags&0x40 == 0 || target.Type != 2 && target.Type != 3) {
		return false
	}
	usable := func(m Mapping, write bool) bool {
		d := env.Devices[m.Dev]
		return m.Dev == 0 || d.Readable && (d.Writable || !write)
	}
	return usable(reply.Read, write && target == reply.Read) && (!write || usable(target, true))
}

// agree compares Validate with its second statement, and v8 with v7: the
// later kernel accepts nothing that the earlier one refused.
func agree(t *testing.T, req Request, reply Reply, env Env) {
	t.Helper()
	accepted := map[Version]bool{}
	for _, v := range []Version{V7, V8} {
		vs := Validate(v, req, reply, env)
		accepted[v] = len(vs) == 0
		if want := acceptable(v, req, reply, env); accepted[v] != want {
			t.Fatalf("%s, op %s at %d:\nread  %v\nwrite %v\nenv %+v\naccepted %t, want %t\n%v",
				v, req.Op, req.Pos, reply.Read, reply.Write, env, accepted[v], want, vs)
		}
		for _, b := range vs {
			if b.Rule < RuleType || b.Rule > RuleMode || b.Errno == 0 || b.Error() == "" {
				t.Fatalf("%s: %#v", v, b)
			}
		}
	}
	if accepted[V8] && !accepted[V7] {
		t.Fatalf("v8 accepts what v7 refuses: op %s at %d:\nread  %v\nwrite %v", req.Op, req.Pos, reply.Read, reply.Write)
	}
}

// TestValidateAgrees draws each field from a few values on either side of what
// a rule allows, so that often all but one are right.
func TestValidateAgrees(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	mapping := func() Mapping {
		return Mapping{
			Offset: pick[uint64](rng, 0, 4096, 4096, 4097, 1<<41),
			Length: pick[uint64](rng, 8192, 8192, 0, 8193, 1<<64-4096),
			Addr:   pick[uint64](rng, 0, NullAddr, NullAddr, 1<<64-8192),
			Type:   pick[Type](rng, 0, 1, 2, 3, 4, 5, 253, 254, 255),
			Flags:  pick(rng, 0, FlagAtomicBio, FlagStale),
			Dev:    pick[uint32](rng, 0, 0, 1, 1, 2, 3, 9),
		}
	}
	accepted := 0
	for range 30_000 {
		req := Request{pick(rng, 0, OpReport|OpSwapfile, OpWrite, OpWriteback, OpWrite|OpDirect|OpAtomic), 5000, 10}
		read := mapping()
		reply := Reply{read, pick(rng, Overwrite(read), mapping(), mapped())}
		env := testEnv
		env.HasCache = rng.IntN(2) == 0
		agree(t, req, reply, env)
		if acceptable(V8, req, reply, env) {
			accepted++
		}
	}
	if accepted < 150 {
		t.Errorf("v8 accepts %d replies: they test little", accepted)
	}
	t.Logf("v8 accepts %d replies", accepted)
}

// pick returns one of values.
func pick[T any](rng *rand.Rand, values ...T) T { return values[rng.IntN(len(values))] }

// FuzzValidate: no reply makes Validate panic, and it agrees with its second
// statement about each.
func FuzzValidate(f *testing.F) {
	add := func(op Op, reply Reply, bs uint64, cache bool) {
		r, w := reply.Read, reply.Write
		f.Add(uint32(op), uint64(5000), r.Offset, r.Length, r.Addr, uint16(r.Type), uint16(r.Flags), r.Dev,
			w.Offset, w.Length, w.Addr, uint16(w.Type), uint16(w.Flags), w.Dev, bs, uint64(1<<40+1024), cache)
	}
	for _, tt := range breakRows() {
		add(tt.op, Reply{tt.read, tt.write}, testEnv.BlockSize, tt.env == nil)
	}
	add(0, Reply{mapped(), Overwrite(mapped())}, testEnv.BlockSize, true)
	add(0, Reply{mapped(), Overwrite(mapped())}, 0, true)
	f.Fuzz(func(t *testing.T, op uint32, pos, ro, rl, ra uint64, rt, rf uint16, rd uint32,
		wo, wl, wa uint64, wt, wf uint16, wd uint32, bs, max uint64, cache bool) {
		env := Env{BlockSize: bs, MaxBytes: max, HasCache: cache, Devices: testEnv.Devices}
		reply := Reply{
			Read:  Mapping{ro, rl, ra, Type(rt), Flags(rf), rd},
			Write: Mapping{wo, wl, wa, Type(wt), Flags(wf), wd},
		}
		agree(t, Request{Op(op), pos, 4096}, reply, env)
		for _, v := range []Version{V7, V8} {
			// What is cached lies on its device.
			if len(ValidateUpsert(v, Upsert(reply), env)) == 0 {
				for _, m := range []Mapping{reply.Read, reply.Write} {
					if end, ok := m.AddrEnd(); m.Type.HasDevice() && (!ok || end > env.Devices[m.Dev].Size) {
						t.Fatalf("%s: upsert past the device accepted: %v", v, m)
					}
				}
			}
			ValidateInval(v, Inval{Range{ro, rl}, Range{wo, wl}}, env)
		}
	})
}
