#!/usr/bin/env bash
# tools.sh - e4go's commands against e2fsprogs and fuse2fs, on images made here.
#
#   docs/bench/tools.sh [E4GO]      E4GO: the binary (default: built from this checkout)
#
# Prints one line a figure: what, e4go, reference, ratio. Needs root, loop
# devices, e2fsprogs, fuse2fs, hyperfine, perl and findutils; leaves its images
# in $WORKDIR (default: a temporary directory, removed at the end).
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

median() { # COMMAND... -> seconds, the median of many runs
	hyperfine --shell=none --warmup 2 --runs "${RUNS:-10}" --export-json h.json --style none "$@" >/dev/null 2>h.err || { cat h.err >&2; return 1; }
	perl -ne 'print $1 if /"median": ([0-9.e-]+)/' h.json
}
peak() { /usr/bin/time -f %M "$@" 2>&1 >/dev/null | tail -n 1; } # COMMAND... -> KiB resident
figure() { # WHAT E4GO REFERENCE
	perl -e 'printf "%-52s %9.4f s  %9.4f s  %6.1f times faster\n", $ARGV[0], $ARGV[1], $ARGV[2], $ARGV[2]/$ARGV[1]' "$@"
}

if [ ! -e frag.img ]; then # a file whose every second block was punched out
	truncate -s 4G frag.img
	mke2fs -q -F -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 frag.img
	mount -o loop frag.img mnt
	dd if=/dev/zero of=mnt/frag bs=1M count=2344 status=none
	sync -f mnt
	perl -e 'open my $h,"+<",$ARGV[0] or die; for (my $i=1;$i<600000;$i+=2) { syscall(285,fileno $h,3,$i*4096,4096)==0 or die "punch $!" }' mnt/frag
	umount mnt
fi
ino=$(debugfs -R "stat /frag" frag.img 2>/dev/null | sed -n 's/^Inode: \([0-9]*\).*/\1/p')
rows=$("$e4go" dumpextents -i frag.img "$ino" | wc -l)
theirs=$(debugfs -R "dump_extents <$ino>" frag.img 2>/dev/null | wc -l)
echo "# dumpextents: $rows lines, debugfs: $theirs"
[ "$rows" -ge "$theirs" ]
figure "dumpextents, 300,000 extents / debugfs dump_extents" \
	"$(median "$e4go dumpextents -i frag.img $ino")" "$(median "debugfs -R 'dump_extents <$ino>' frag.img")"

[ -e 1t.img ] || mke2fs -q -F -t ext4 1t.img 1T
figure "info of a 1 TiB image / dumpe2fs -h" "$(median "$e4go info 1t.img")" "$(median "dumpe2fs -h 1t.img")"
echo "# info of a 1 TiB image: $(peak "$e4go" info 1t.img) KiB resident"

if [ ! -e tree.img ]; then # 20,000 files of 0 to 16 KiB in 200 directories
	mkdir tree
	perl -e 'srand 4; for my $d (0..199) { mkdir "tree/d$d"; for my $f (0..99) { open my $h,">","tree/d$d/file$f"; print $h chr(97+$f%26) x int rand 16384 } }'
	mke2fs -q -F -t ext4 -d tree tree.img 1G
	rm -r tree
fi
ours=$(median "$e4go ls -R -l --json -i tree.img /")
echo "# ls -R -l --json: $(peak "$e4go" ls -R -l --json -i tree.img /) KiB resident"
fuse2fs -o ro,allow_other tree.img mnt >/dev/null 2>&1
figure "ls -R -l --json, 20,000 files / find -ls on fuse2fs" "$ours" "$(RUNS=3 median "find mnt -ls")"
umount mnt
mount -o loop,ro tree.img mnt
figure "the same / find -ls on the kernel's ext4" "$ours" "$(median "find mnt -ls")"
umount mnt
