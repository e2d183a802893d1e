#!/usr/bin/env bash
# stress.sh: each of stress-ng's file system stressors, on e4go's mount and on the kernel's ext4 beside it.
#
#   docs/bench/stress.sh [-o OPTIONS] [STRESSOR...]     all of the class, or those that are named
#
# Prints a line for each: the exit statuses (0 passed, 3 and 4 not possible here) and the operations of both. It fails if one passes on
# the kernel's ext4 and not on e4go's mount, if e2fsck or fsck-lite find anything behind them all, or if the server complained. -o are mount
# options beside rw,suid,dev. Wants root, /dev/fuse, loop devices, Go, a C compiler, stress-ng. STRESS_SECONDS is how long each runs on
# each (4). sync(2) does nothing in it, since it would wait for every file system of the machine; syncfs(2) and fsync(2) do what they do.
set -euo pipefail
cd "$(dirname "$0")/../.."
options=
while getopts o: opt; do
	case $opt in o) options=$OPTARG ;; *) exit 1 ;; esac
done
shift $((OPTIND - 1))
# bind-mount, binderfs, eventfd, ioprio and procfs are of the class, and not about a file system on a disk.
[ $# -gt 0 ] || set -- $(stress-ng --class 'filesystem?' 2>&1 | sed 's/.*: //' | tr ' ' '\n' | grep -vxE 'bind-mount|binderfs|eventfd|ioprio|procfs')
root=$(mktemp -d)
mkdir "$root/e4go" "$root/kernel"
cleanup() {
	umount "$root/kernel" 2>/dev/null || true
	! mountpoint -q "$root/e4go" || "$root/program" umount "$root/e4go" || umount -l "$root/e4go"
	rm -rf "$root"
}
trap cleanup EXIT
go build -o "$root/program" .
echo 'void sync(void) {}' | cc -shared -fPIC -x c -o "$root/nosync.so" -
mke2fs -q -t ext4 "$root/img" 1G >/dev/null
cp --sparse=always "$root/img" "$root/other"
"$root/program" mount -o "rw,suid,dev,log=$root/log${options:+,$options}" "$root/img" "$root/e4go"
mount -o loop "$root/other" "$root/kernel"

bad=0
for s; do
	line=$s
	declare -A status=()
	for where in e4go kernel; do
		work=$root/$where/stress
		mkdir "$work"
		st=0
		LD_PRELOAD=$root/nosync.so timeout -k 5 120 stress-ng --temp-path "$work" "--$s" 2 --timeout "${STRESS_SECONDS:-4}s" --verify --metrics-brief \
			--hdd-bytes 32m --fallocate-bytes 32m --sync-file-bytes 16m --copy-file-bytes 128m >"$root/out" 2>&1 || st=$?
		status[$where]=$st
		line+=$(printf '\t%s %d %s' "$where" "$st" "$(awk -v s="$s" '/metrc:/ && $4 == s && $5 ~ /^[0-9]+$/ { print $5; exit }' "$root/out")")
		[ $st = 0 ] || [ $st = 3 ] || [ $st = 4 ] || grep fail: "$root/out" | head -3 >&2
		chattr -R -f -ia "$work" || true
		rm -rf "$work"
	done
	echo "$line"
	[ "${status[e4go]}" = "${status[kernel]}" ] || [ "${status[kernel]}" != 0 ] || { echo "$s: passes on the kernel's ext4, and not on e4go's" >&2; bad=1; }
done
umount "$root/kernel"
"$root/program" umount "$root/e4go"
e2fsck -fn "$root/img" >"$root/out" 2>&1 || { cat "$root/out" >&2; bad=1; }
"$root/program" fsck-lite "$root/img" >"$root/out" 2>&1 || { cat "$root/out" >&2; bad=1; }
[ ! -s "$root/log" ] || { cat "$root/log" >&2; bad=1; }
exit $bad
