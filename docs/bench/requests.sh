#!/bin/bash
# requests.sh - which requests the kernel sends to e4go's mount for what, and how many.
#
#   requests.sh [MOUNT-OPTIONS]        default: rw
#
# prints a line for each of some operations, done a hundred times unless its name says otherwise. One request costs
# 20 to 40 microseconds, whoever answers it, so these numbers say more than a clock on a busy machine.
# IOCTL is perl, which asks of each file whether it is a terminal.
#
# environment
#   E4GO         the program                                    (e4go)
#   WORKDIR      where image, mount point and log live          (/tmp/requests)
#
# Needs root, /dev/fuse, mke2fs, perl, tar, find, du, dd. Installs nothing.
set -eu
export LC_ALL=C
case ${1-} in -h|--help) sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2;; esac

E4GO=${E4GO:-e4go}
WORKDIR=${WORKDIR:-/tmp/requests}
IMG=$WORKDIR/img MNT=$WORKDIR/mnt LOG=$WORKDIR/log
export MNT D=$MNT/dir
mkdir -p "$MNT" "$WORKDIR/src"
trap 'mountpoint -q "$MNT" && umount "$MNT"; rm -rf "$WORKDIR"' EXIT
truncate -s 1G "$IMG"
mke2fs -q -F -t ext4 "$IMG"
perl -e 'for my $d (1..5) { mkdir "$ARGV[0]/d$d"; for (1..10) { open F, ">$ARGV[0]/d$d/$_"; print F "y" x (1500 * $_); close F } }' "$WORKDIR/src"
tar cf "$WORKDIR/src.tar" -C "$WORKDIR/src" .
: >"$LOG"
"$E4GO" mount -f --debug -o "${1:-rw}" "$IMG" "$MNT" 2>>"$LOG" &
for _ in $(seq 100); do mountpoint -q "$MNT" && break; sleep 0.1; done
mountpoint -q "$MNT" || { echo "requests.sh: nothing is mounted: $(tail -1 "$LOG")" >&2; exit 1; }
mkdir "$D"

count() { # NAME COMMAND
	sleep 0.2; : >"$LOG"; eval "$2"; sleep 0.2
	grep -a -o 'rx [0-9]*: [A-Z_]*' "$LOG" | awk -v name="$1" '{ n[$3]++; all++ } END { printf "%-34s %4d:", name, all; for (k in n) printf " %s %d", k, n[k]; print "" }'
}
p() { count "$1" "perl -e 'use Fcntl; my \$d = \$ENV{D}; $2'"; }
p 'create, write 1 KiB, close'     'for (1..100) { sysopen(my $h, "$d/f$_", O_WRONLY|O_CREAT|O_EXCL) or die; syswrite $h, "x" x 1024; close $h }'
p 'stat'                           'for (1..100) { lstat "$d/f$_" or die }'
p 'open, read, close'              'for (1..100) { sysopen(my $h, "$d/f$_", O_RDONLY) or die; sysread $h, my $b, 4096; close $h }'
p 'open to append, write, close'   'for (1..100) { sysopen(my $h, "$d/f$_", O_WRONLY|O_APPEND) or die; syswrite $h, "x"; close $h }'
p 'open with O_TRUNC, write, close' 'for (1..100) { sysopen(my $h, "$d/f$_", O_WRONLY|O_TRUNC) or die; syswrite $h, "x"; close $h }'
p 'rename'                         'for (1..100) { rename "$d/f$_", "$d/n$_" or die }'
p 'unlink'                         'for (1..100) { unlink "$d/n$_" or die }'
p 'write 4 KiB, one file'          'sysopen(my $h, "$d/seq", O_WRONLY|O_CREAT) or die; syswrite $h, "x" x 4096 for 1..100; close $h'
p 'write 100 bytes, one file'      'sysopen(my $h, "$d/few", O_WRONLY|O_CREAT) or die; syswrite $h, "x" x 100 for 1..100; close $h'
count 'write 1 MiB, 16 times'      'dd if=/dev/zero of="$D/big" bs=1M count=16 status=none'
p 'write 4 KiB over, anywhere'     'sysopen(my $h, "$d/big", O_WRONLY) or die; for (1..100) { sysseek $h, 4096 * int rand 4096, 0; syswrite $h, "x" x 4096 } close $h'
count 'tar x, 50 files in 5 directories' 'tar xf "$WORKDIR/src.tar" -C "$D" --no-same-owner'
count 'find, twice'                'find "$D" >/dev/null; find "$D" >/dev/null'
count 'du'                         'du -s "$D" >/dev/null'
count 'rm -r, 53 files in 6 directories' 'rm -r "$D"'
p 'mkdir'                          'for (1..100) { mkdir "$ENV{MNT}/d$_" or die }'
p 'rmdir'                          'for (1..100) { rmdir "$ENV{MNT}/d$_" or die }'
umount "$MNT"
wait
