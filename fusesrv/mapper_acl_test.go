package fusesrv

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"e4go/iomap/simkernel"

	"golang.org/x/sys/unix"
)

// TestMappedACL: who does what about ACLs. In directories that are EXCLUSIVE the kernel applies a
// default ACL, or the umask, sends the mode that comes of it with the umask as it is, and then the
// ACLs; the server applies neither again. In the root, which never is, the server does it all. Both end the same.
func TestMappedACL(t *testing.T) {
	const none = ^uint32(0)
	acl := simkernel.ACL{
		{Tag: simkernel.ACLUserObj, Perm: 7, ID: none}, {Tag: simkernel.ACLUser, Perm: 6, ID: 1001}, {Tag: simkernel.ACLGroupObj, Perm: 5, ID: none},
		{Tag: simkernel.ACLMask, Perm: 7, ID: none}, {Tag: simkernel.ACLOther, Perm: 4, ID: none},
	}
	masked := slices.Clone(acl) // by mode 0660
	masked[0].Perm, masked[3].Perm, masked[4].Perm = 6, 6, 0
	minimal := simkernel.ACL{{Tag: simkernel.ACLUserObj, Perm: 6}, {Tag: simkernel.ACLGroupObj, Perm: 4}, {Tag: simkernel.ACLOther, Perm: 0}}

	var got []string
	fail := ""
	m := mountMapped(t, mkfsMem(t, 32<<20, "-t ext4"), simkernel.Options{
		Fail: func(what string) error {
			if what == fail {
				return unix.ENOSPC
			}
			return nil
		},
		Trace: func(e simkernel.Event) {
			s := e.Op
			switch r := e.Request; e.Op {
			case "CREATE":
				s += fmt.Sprintf("(%o,%o)", le.Uint32(r[4:])&0o7777, le.Uint32(r[8:]))
			case "MKDIR":
				s += fmt.Sprintf("(%o,%o)", le.Uint32(r), le.Uint32(r[4:]))
			case "SETATTR":
				s += fmt.Sprintf("(%#x,%o)", le.Uint32(r), le.Uint32(r[68:])&0o7777)
			case "SETXATTR":
				name, _, _ := strings.Cut(string(r[16:]), "\x00")
				s += "(" + strings.TrimPrefix(name, "system.posix_acl_") + ")"
			case "LOOKUP", "GETXATTR":
				return
			}
			got = append(got, s)
		},
	})
	c := simkernel.Cred{Umask: 0o077}
	trace := func(want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("requests %q, want %q", got, want)
		}
		got = nil
	}
	judge := func(path string, mode uint32, access, deflt simkernel.ACL) {
		t.Helper()
		a, err := m.k.Stat(c, path)
		if err != nil || a.Mode&0o7777 != mode {
			t.Errorf("%s: mode %o, %v; want %o", path, a.Mode&0o7777, err, mode)
		}
		for name, want := range map[string]simkernel.ACL{simkernel.ACLAccess: access, simkernel.ACLDefault: deflt} {
			if have, err := m.k.GetACL(c, path, name); err != nil || !slices.Equal(have, want) {
				t.Errorf("%s: %s is %v, %v; want %v", path, name, have, err, want)
			}
		}
		got = nil
	}
	create := func(path string) error {
		_, err := m.k.Open(c, path, unix.O_RDWR|unix.O_CREAT, 0o660)
		return err
	}
	got = nil // INIT and CONFIG
	check(t, m.k.Mkdir(c, "/d", 0o777))
	trace("MKDIR(777,77)") // in the root the server applies the umask
	judge("/d", 0o700, nil, nil)
	check(t, m.k.Mkdir(c, "/d/plain", 0o777))
	trace("MKDIR(700,77)")
	judge("/d/plain", 0o700, nil, nil)

	check(t, m.k.SetACL(c, "/d", simkernel.ACLDefault, acl))
	trace("SETXATTR(default)")
	check(t, create("/d/f"))
	trace("CREATE(660,77)", "SETXATTR(access)")
	judge("/d/f", 0o660, masked, nil)
	check(t, m.k.Mkdir(c, "/d/sub", 0o660))
	trace("MKDIR(660,77)", "SETXATTR(default)", "SETXATTR(access)")
	judge("/d/sub", 0o660, masked, acl)

	check(t, m.k.SetACL(c, "/", simkernel.ACLDefault, acl))
	trace("SETXATTR(default)")
	check(t, create("/f"))
	trace("CREATE(660,77)")
	judge("/f", 0o660, masked, nil)

	check(t, m.k.SetACL(c, "/d/f", simkernel.ACLAccess, minimal))
	trace("REMOVEXATTR", "SETATTR(0x430,0)", "SETATTR(0x401,640)")
	judge("/d/f", 0o640, nil, nil)
	check(t, m.k.SetACL(c, "/d/f", simkernel.ACLAccess, acl))
	trace("SETXATTR(access)", "SETATTR(0x430,0)", "SETATTR(0x401,774)")
	judge("/d/f", 0o774, acl, nil)
	check(t, m.k.Chmod(c, "/d/f", 0o660)) // which the server does to the ACL
	trace("SETATTR(0x401,660)")
	judge("/d/f", 0o660, masked, nil)

	// The caller is told, and the file is there without its ACL.
	fail = "SETXATTR"
	if err := create("/d/g"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a file whose ACL cannot be set: %v", err)
	}
	fail = ""
	if a, err := m.k.Stat(c, "/d/g"); err != nil || a.Mode&0o777 != 0o660 {
		t.Errorf("a file whose ACL could not be set: %+v, %v", a, err)
	}
	m.k.Kill()
	m.stop()
	check(t, m.fs.Close())
	e2fsckMem(t, m.dev, false)
}
