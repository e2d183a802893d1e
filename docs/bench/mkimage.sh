#!/usr/bin/env bash
# mkimage.sh - e4go mkimage against mke2fs, and against cp into the kernel's ext4.
#
#   docs/bench/mkimage.sh [E4GO]    E4GO: the binary (default: built from this checkout)
#
# Runs what is compared in turn, $RUNS times each (default 7, the large file 3
# times), into a new file each time, flushed at the end, and prints the medians. Sources
# are cached. Needs e2fsprogs, perl, GNU time, root and a loop device for the
# large file, and 14 GiB in $WORKDIR (default: a temporary directory, removed at the end).
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${WORKDIR:-}" ]; then
	WORKDIR=$(mktemp -d)
	trap 'rm -rf "$WORKDIR"' EXIT
fi
mkdir -p "$WORKDIR/mnt"
cd "$WORKDIR"
e4go=${1:-$WORKDIR/e4go}
[ $# -gt 0 ] || (cd "$root" && go build -o "$e4go" .)

if [ ! -e tree ]; then # 20,000 files of 0 to 20 KiB in 200 directories
	mkdir tree
	perl -e 'srand 4; for my $d (0..199) { mkdir "tree/d$d"; for my $f (0..99) { open my $h,">","tree/d$d/file$f"; print $h chr(97+$f%26) x int rand 20480 } }'
fi
if [ ! -e large ]; then
	mkdir large
	head -c 4G /dev/urandom >large/file
fi

copied() { # SIZE: cp of the large file into a new ext4 of the kernel's
	mke2fs -q -F -t ext4 out.img "$1" >/dev/null
	mount -o loop out.img mnt
	local start=$EPOCHREALTIME
	cp large/file mnt/
	sync -f mnt
	seconds=$(perl -e 'print $ARGV[1]-$ARGV[0]' "$start" "$EPOCHREALTIME")
	umount mnt
}
ran() { # COMMAND...
	local start=$EPOCHREALTIME
	/usr/bin/time -f %M -o kib "$@" >/dev/null 2>&1 || { echo "$*: status $?" >&2; exit 1; }
	seconds=$(perl -e 'print $ARGV[1]-$ARGV[0]' "$start" "$EPOCHREALTIME")
}
compare() { # RUNS WHAT OURS THEIRS: two lines of words, to be run
	rm -f ours theirs
	for _ in $(seq "$1"); do
		rm -f out.img && $3 && echo "$seconds $(tail -n 1 kib)" >>ours
		rm -f out.img && $4 && echo "$seconds 0" >>theirs
	done
	rm -f out.img
	perl -e 'sub med { my ($f,$c)=@_; open my $h,"<",$f; my @v=sort {$a<=>$b} map { (split)[$c] } <$h>; $v[$#v/2] }
		printf "%-44s mkimage %7.3f s %6d KiB   %-22s %7.3f s   %5.1f times faster\n", $ARGV[0], med("ours",0), med("ours",1), $ARGV[1], med("theirs",0), med("theirs",0)/med("ours",0)' "$2" "${5:-mke2fs}"
}
runs=${RUNS:-7}
cat tree/*/* >/dev/null
for size in 400m 8g; do
	compare "$runs" "20,000 files into $size" "ran $e4go mkimage -q -d tree out.img $size" "ran mke2fs -q -F -t ext4 -d tree out.img $size"
done
compare "$runs" "20,000 files into the smallest image" "ran $e4go mkimage -q -d tree out.img" "ran mke2fs -q -F -t ext4 -d tree out.img 400m" "mke2fs, 400m"
compare "$runs" "empty, 1 TiB" "ran $e4go mkimage -q out.img 1t" "ran mke2fs -q -F -t ext4 out.img 1t"
compare "$runs" "empty, 16383 GiB" "ran $e4go mkimage -q out.img 16383g" "ran mke2fs -q -F -t ext4 out.img 16383g"
cat large/file >/dev/null
if [ "$(id -u)" = 0 ]; then
	compare 3 "a file of 4 GiB" "ran $e4go mkimage -q -d large out.img 5g" "copied 5g" "cp, sync -f"
fi
compare 1 "a file of 4 GiB" "ran $e4go mkimage -q -d large out.img 5g" "ran mke2fs -q -F -t ext4 -d large out.img 5g"
