#!/usr/bin/env bash
# judges.sh: real programs on e4go's mount, each judged by itself, and the image by e2fsck and fsck-lite after each.
#
#   docs/bench/judges.sh [-o OPTIONS] [PROGRAM...]      all of them, or: git tar rsync sqlite gobuild overlay fio dbench stress
#
# -o are mount options beside rw,suid,dev, for example writeback_cache. Wants root, /dev/fuse, Go, and the programs of Debian's
# git rsync sqlite3 fio dbench stress-ng attr acl. Takes half an hour on two processors. Works in JUDGES_DIR, by default a
# new directory under the temporary one; JUDGES_SECONDS is how long fio, dbench and each stressor run (20).
set -euo pipefail
cd "$(dirname "$0")/../.."
options=
while getopts o: opt; do
	case $opt in o) options=$OPTARG ;; *) exit 1 ;; esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- git tar rsync sqlite gobuild overlay fio dbench stress
root=${JUDGES_DIR:-$(mktemp -d)}
seconds=${JUDGES_SECONDS:-20}
mkdir -p "$root"
repo=$PWD
go build -o "$root/e4go" .
e4go=$root/e4go img=$root/img mnt=$root/mnt src=$root/src
mkdir -p "$mnt" "$src"

up() { "$e4go" mount -o "rw,suid,dev,log=$root/log${options:+,$options}" "$img" "$mnt"; }
down() { "$e4go" umount "$mnt"; }
cleanup() {
	umount "$root/merged" 2>/dev/null || true
	! mountpoint -q "$mnt" || down || umount -l "$mnt"
	[ -n "${JUDGES_DIR:-}" ] || rm -rf "$root"
}
trap cleanup EXIT

# tree DIR: names, modes, owners, links, sizes, times, xattrs, ACLs and contents of all below it.
tree() {
	(cd "$1" && find . -printf '%P %y %m %U:%G %n %l\n' | sort &&
		find . ! -type d -printf '%P %s %T@\n' | sort &&
		find . -type f -print0 | sort -z | xargs -0 -r sha256sum &&
		find . -print0 | sort -z | xargs -0 -r getfattr -hd -m - -e hex -- 2>/dev/null &&
		find . ! -type l -print0 | sort -z | xargs -0 -r getfacl -np --)
}
same() { diff <(tree "$1") <(tree "$2") >"$root/diff" || { head -20 "$root/diff" >&2; echo "$1 and $2 differ" >&2; return 1; }; }

# source: a tree with something of everything, outside.
source_tree() {
	[ ! -e "$src/done" ] || return 0
	mkdir -p "$src"/{d1/d2/d3,empty,sgid,sticky}
	tar cf - --one-file-system -C /usr include/linux 2>/dev/null | tar xf - -C "$src"
	for i in 1 2 3 4 5 6 7 8; do head -c $((RANDOM * i * 40)) /dev/urandom >"$src/d1/random$i"; done
	truncate -s 100M "$src/sparse"; echo middle | dd of="$src/sparse" bs=1 seek=50000000 conv=notrunc status=none
	ln "$src/d1/random1" "$src/d1/d2/hard1"; ln "$src/d1/random1" "$src/hard2"
	ln -s d1/random1 "$src/soft"; ln -s nowhere "$src/dangling"; ln -s "$(printf 'long%.0s' $(seq 200))" "$src/longlink"
	mkfifo "$src/fifo"; mknod "$src/null" c 1 3; mknod "$src/big" b 300 70000
	chown 1000:2000 "$src/d1/random2"; chmod 4755 "$src/d1/random3"; chmod 2770 "$src/sgid"; chmod 1777 "$src/sticky"
	setfattr -n user.one -v value "$src/d1/random4"; setfattr -n user.two -v "$(printf 'x%.0s' $(seq 1500))" "$src/d1/random4"
	setfattr -n trusted.t -v secret "$src/empty"
	setfacl -m u:1000:rw,g:2000:r "$src/d1/random5"; setfacl -d -m u:1001:rwx "$src/d1/d2"
	touch -d 1969-12-31T23:00:00Z "$src/d1/random6"; touch -d 2200-01-01 "$src/d1/random7"
	touch "$src/done"
}

run_git() {
	git clone -q --no-hardlinks "$repo" "$mnt/clone"
	(cd "$mnt/clone" && git fsck --no-dangling --full --strict 2>&1 && git gc -q --aggressive --prune=now && git fsck --no-dangling --full && git status --porcelain | diff - /dev/null &&
		git checkout -q -b other HEAD~20 && git checkout -q - && git repack -qad && git fsck --no-dangling)
	git clone -q "$mnt/clone" "$mnt/second"
	git -C "$mnt/second" fsck --no-dangling
	diff -r "$repo/ext4" "$mnt/second/ext4" >/dev/null || git -C "$repo" status --porcelain | grep -q .
}
run_tar() {
	source_tree
	mkdir "$mnt/in"
	tar --warning=no-timestamp -cf - --xattrs --xattrs-include='*' --acls -S -C "$src" . | tar --warning=no-timestamp -xf - --xattrs --xattrs-include='*' --acls -S -p --numeric-owner -C "$mnt/in"
	same "$src" "$mnt/in"
	rm -rf "$root/out"; mkdir "$root/out"
	tar --warning=no-timestamp -cf - --xattrs --xattrs-include='*' --acls -S -C "$mnt/in" . | tar --warning=no-timestamp -xf - --xattrs --xattrs-include='*' --acls -S -p --numeric-owner -C "$root/out"
	same "$src" "$root/out"
	[ "$(du -k "$mnt/in/sparse" | cut -f1)" -lt 1000 ] || { echo "sparse is not" >&2; return 1; }
}
run_rsync() {
	source_tree
	rsync -aHAXS --numeric-ids "$src/" "$mnt/rs/"
	same "$src" "$mnt/rs"
	[ "$(rsync -aHAXS --numeric-ids --itemize-changes "$src/" "$mnt/rs/" | wc -l)" = 0 ] || { echo "rsync finds changes" >&2; return 1; }
	rsync -aHAXS --numeric-ids --delete "$mnt/rs/" "$root/rsback/"
	same "$src" "$root/rsback"
}
run_sqlite() {
	for mode in wal delete truncate persist; do
		{
			echo "PRAGMA journal_mode=$mode; CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); CREATE INDEX i ON t(x);"
			for i in $(seq 200); do echo "BEGIN; INSERT INTO t(x) SELECT randomblob(abs(random() % 3000)) FROM generate_series(1,20); DELETE FROM t WHERE id % 5 = $((i % 5)); COMMIT;"; done
			echo "VACUUM; PRAGMA integrity_check;"
		} | sqlite3 -bail "$mnt/$mode.db" | tail -1 | grep -qx ok
	done
	# Several at once.
	sqlite3 "$mnt/many.db" "PRAGMA journal_mode=wal; CREATE TABLE t(x);" >/dev/null
	for w in 1 2 3 4; do (for i in $(seq 50); do echo ".timeout 60000
INSERT INTO t VALUES($w*1000+$i);"; done | sqlite3 -bail "$mnt/many.db") & done
	wait
	[ "$(sqlite3 "$mnt/many.db" 'PRAGMA integrity_check; SELECT count(*) FROM t;' | tr '\n' ' ')" = "ok 200 " ]
}
run_gobuild() {
	git clone -q "$repo" "$mnt/src"
	(cd "$mnt/src" && mkdir "$mnt/gocache" "$mnt/gotmp" && GOCACHE=$mnt/gocache GOTMPDIR=$mnt/gotmp GOFLAGS=-mod=mod go build -o "$mnt/built" . && "$mnt/built" tour >/dev/null &&
		GOCACHE=$mnt/gocache GOTMPDIR=$mnt/gotmp go test ./ext4/disk ./ext4/blockdev >"$root/gotest" || { cat "$root/gotest" >&2; false; })
}
run_overlay() {
	mkdir -p "$mnt"/{upper,work} "$root/merged" "$root/lower"
	rm -rf "$root/lower"; mkdir "$root/lower"
	mkdir -p "$root/lower/var/lib/dpkg" "$root/lower/dir/sub"; : >"$root/lower/var/lib/dpkg/status"
	echo lower >"$root/lower/file"; echo lower >"$root/lower/dir/inner"; echo lower >"$root/lower/dir/sub/deep"; setfattr -n user.x -v y "$root/lower/file"
	mount -t overlay overlay -o "lowerdir=$root/lower,upperdir=$mnt/upper,workdir=$mnt/work,redirect_dir=on,index=on,xino=auto" "$root/merged"
	(
		cd "$root/merged"
		echo more >>file && [ "$(cat file)" = "$(printf 'lower\nmore')" ] && getfattr -n user.x file >/dev/null # copy-up
		mv dir moved && [ "$(cat moved/sub/deep)" = lower ] && [ ! -e dir ]                                # redirect and whiteout
		[ "$(stat -c %F "$mnt/upper/dir")" = "character special file" ]
		rm -r moved/sub && mkdir moved/sub && [ -z "$(ls -A moved/sub)" ]                                  # an opaque directory
		getfattr -n trusted.overlay.opaque "$mnt/upper/moved/sub" >/dev/null
		ln file link && rm file && [ "$(cat link)" = "$(printf 'lower\nmore')" ]
		# A package is installed: unpacked, configured, and removed.
		mkdir -p "$root/pkg/DEBIAN" "$root/pkg/usr/share/judged"
		printf 'Package: judged\nVersion: 1\nArchitecture: all\nMaintainer: n <a@b.c>\nDescription: d\n' >"$root/pkg/DEBIAN/control"
		for i in $(seq 300); do echo $i >"$root/pkg/usr/share/judged/f$i"; done
		dpkg-deb -b "$root/pkg" "$root/judged.deb" >/dev/null
		mkdir -p var/lib/dpkg/{info,updates,triggers} && dpkg --root="$root/merged" --force-not-root --force-script-chrootless -i "$root/judged.deb" >/dev/null
		[ "$(cat usr/share/judged/f300)" = 300 ] && dpkg --root="$root/merged" -s judged >/dev/null
		dpkg --root="$root/merged" --force-script-chrootless -P judged >/dev/null && [ ! -e usr/share/judged/f300 ]
		tar cf - -C / usr/lib/git-core usr/share/perl5 2>/dev/null | tar xf - # and a larger one
		diff -r /usr/share/perl5 usr/share/perl5 >/dev/null && rm -rf usr
	)
	umount "$root/merged"
}
run_fio() {
	local common=(--directory="$mnt" --size=32m --runtime="$seconds" --time_based --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --group_reporting --minimal)
	fio --name=buffered "${common[@]}" --rw=randrw --bs=512-64k --ioengine=psync --numjobs=2 >/dev/null
	fio --name=mapped "${common[@]}" --rw=randrw --bs=4k --ioengine=mmap --numjobs=2 >/dev/null
	fio --name=direct "${common[@]}" --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=16 >/dev/null
	fio --name=uring "${common[@]}" --rw=randwrite --bs=16k --direct=1 --ioengine=io_uring --iodepth=8 >/dev/null || [ ! -e /proc/sys/kernel/io_uring_disabled ] || [ "$(cat /proc/sys/kernel/io_uring_disabled)" != 0 ]
	fio --name=synced "${common[@]}" --rw=randwrite --bs=4k --ioengine=psync --fsync=8 --fallocate=none >/dev/null
	fio --name=seq "${common[@]}" --rw=write --bs=1m --ioengine=psync --end_fsync=1 >/dev/null
}
run_dbench() { dbench -t "$seconds" -D "$mnt" 4 | tail -1; }
# Without the stressors dentry, io, iomix, mknod and open, which call sync(2) and so wait for every file system of the machine, and
# getdent, which reads elsewhere.
run_stress() {
	local s help
	help=$(stress-ng --help)
	for s in access chdir chmod chown copy-file dir dirdeep dirmany dup fallocate fiemap file-ioctl filename flock fpunch fstat hdd inotify lease link locka lockofd metamix mmapfiles rename rotate seal seek sendfile symlink sync-file touch unlink utime verity xattr; do
		grep -q -- "--$s N" <<<"$help" || continue
		local began=$SECONDS
		mkdir -p "$mnt/stress"
		timeout $((seconds * 6 + 60)) stress-ng --temp-path "$mnt/stress" "--$s" 2 --timeout "${seconds}s" --verify --hdd-bytes 32m --fallocate-bytes 32m --sync-file-bytes 16m --copy-file-bytes 128m -q >"$root/stress" 2>&1 ||
			{ local st=$?; [ $st = 3 ] || [ $st = 4 ] || { echo "stress-ng --$s: status $st" >&2; cat "$root/stress" >&2; return 1; }; }
		rm -rf "$mnt/stress"
		echo "stress-ng --$s: $((SECONDS - began)) seconds"
	done
}

failed=()
for what; do
	rm -f "$img" "$root/log"
	mke2fs -q -F -t ext4 "$img" 2G >/dev/null
	up
	# Not under "if": set -e would not hold in it.
	set +e
	(set -e; run_"$what")
	st=$?
	set -e
	[ $st = 0 ] || failed+=("$what")
	down
	e2fsck -fn "$img" >"$root/e2fsck" 2>&1 || { cat "$root/e2fsck" >&2; failed+=("$what: e2fsck"); }
	"$e4go" fsck-lite "$img" >"$root/fsck" 2>&1 || { cat "$root/fsck" >&2; failed+=("$what: fsck-lite"); }
	[ ! -s "$root/log" ] || { cat "$root/log" >&2; failed+=("$what: the server complained"); }
	echo "$what: $([ ${#failed[@]} = 0 ] && echo ok || echo "failed so far: ${failed[*]}")"
done
[ ${#failed[@]} = 0 ]
