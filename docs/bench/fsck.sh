#!/usr/bin/env bash
# fsck.sh - e4go fsck-lite against e2fsck -fn, on images made here.
#
#   docs/bench/fsck.sh [E4GO]       E4GO: the binary (default: built from this checkout)
#
# Runs the two in turn, warm, $RUNS times each (default 5), and prints for each
# image the medians: wall time, user and system time, resident memory at most.
# What runs is "E4GO fsck-lite IMAGE", or $FSCK with IMAGE behind it. Needs
# e2fsprogs, perl and GNU time, no root; leaves its images in $WORKDIR (default: a temporary
# directory, removed at the end) and takes those that are there: files20k.img,
# files1m.img, 1t.img.
set -euo pipefail
export LC_ALL=C
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${WORKDIR:-}" ]; then
	WORKDIR=$(mktemp -d)
	trap 'rm -rf "$WORKDIR"' EXIT
fi
cd "$WORKDIR"
e4go=${1:-$WORKDIR/e4go}
if [ -z "${FSCK:-}" ]; then
	[ $# -gt 0 ] || (cd "$root" && go build -o "$e4go" .)
	FSCK="$e4go fsck-lite"
fi

tree() { # DIRECTORIES FILES-IN-EACH BYTES-AT-MOST: a tree of files in ./tree
	rm -rf tree
	mkdir tree
	perl -e 'srand 4; my ($d,$n,$m)=@ARGV; for my $i (1..$d) { mkdir "tree/d$i"; for my $f (1..$n) { open my $h,">","tree/d$i/file$f"; print $h "x" x int rand $m if $m } }' "$@"
}
if [ ! -e files20k.img ]; then
	tree 200 100 16384
	mke2fs -q -F -t ext4 -d tree files20k.img 8G
fi
if [ ! -e files1m.img ]; then
	tree 1000 1000 0
	mke2fs -q -F -t ext4 -b 4096 -i 8192 -d tree files1m.img 10G
fi
rm -rf tree
[ -e 1t.img ] || mke2fs -q -F -t ext4 1t.img 1T

once() { # COMMAND... -> wall seconds, CPU seconds, KiB
	local start=$EPOCHREALTIME end
	/usr/bin/time -f '%U %S %M' -o t "$@" >/dev/null 2>&1 || { echo "$*: status $?" >&2; exit 1; }
	end=$EPOCHREALTIME
	perl -e 'my ($a,$b,$u,$s,$m)=@ARGV; printf "%.4f %.2f %d\n",$b-$a,$u+$s,$m' "$start" "$end" $(tail -n 1 t)
}
for image in files20k.img files1m.img 1t.img; do
	rm -f ours theirs
	runs=${RUNS:-5}
	[ "$image" != files20k.img ] || runs=$((8 * runs)) # they are short
	once e2fsck -fn "$image" >/dev/null
	for _ in $(seq "$runs"); do
		once $FSCK "$image" >>ours
		once e2fsck -fn "$image" >>theirs
	done
	perl -e 'sub med { my ($f,$c)=@_; open my $h,"<",$f; my @v=sort {$a<=>$b} map { (split)[$c] } <$h>; $v[$#v/2] }
		my @o=map {med("ours",$_)} 0..2; my @t=map {med("theirs",$_)} 0..2;
		printf "%-14s fsck-lite %7.3f s wall %6.2f s CPU %6d KiB   e2fsck %7.3f s wall %6.2f s CPU %6d KiB   %5.1f times faster, %4.1f times less CPU\n",
			$ARGV[0],@o,@t,$t[0]/($o[0]||0.01),$t[1]/($o[1]||0.01)' "$image"
done
