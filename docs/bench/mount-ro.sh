#!/bin/bash
# mount-ro.sh - reading through e4go's mount against fuse2fs, on the same image in the same run.
#
#   mount-ro.sh [RUNS]        RUNS: how often each figure is taken, default 3
#
# prints, for each test, the median of both in its unit and how many times e4go is faster.
#
# environment
#   TESTS        which: find newer tar seq rand4k rand4k-4 storm                      (all)
#   E4GO_MOUNT   command that mounts: gets IMAGE and DIR; may stay in the foreground  (e4go mount -o ro)
#   FUSE2FS      the same for the reference                                           (fuse2fs -o ro,allow_other)
#   WORKDIR      where image and mount point live; the image is kept for the next run (/tmp/mount-ro)
#   NFILES       small files in the tree                                              (20000)
#   BIG_MB       size of the file for fio                                             (512)
#
# cold: server fresh, nothing of the image in memory: the disk decides.  host: server fresh, the image in the
# host's page cache: the server decides.  warm: the same command again on the same mount.
# Needs root, /dev/fuse, e4go, fuse2fs, mke2fs, fio, perl, tar, find, split. Installs nothing.
set -eu
export LC_ALL=C
case ${1-} in -h|--help) sed -n '2,/^set -eu/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2;; esac

RUNS=${1:-3}
E4GO_MOUNT=${E4GO_MOUNT:-e4go mount -o ro}
FUSE2FS=${FUSE2FS:-fuse2fs -o ro,allow_other}
WORKDIR=${WORKDIR:-/tmp/mount-ro}
TESTS=${TESTS:-find newer tar seq rand4k rand4k-4 storm}
NFILES=${NFILES:-20000}
BIG_MB=${BIG_MB:-512}
IMG=$WORKDIR/$NFILES-$BIG_MB.img MNT=$WORKDIR/mnt

missing=
[ "$(id -u)" = 0 ] || missing="$missing root"
[ -c /dev/fuse ] || missing="$missing /dev/fuse"
for c in "${E4GO_MOUNT%% *}" "${FUSE2FS%% *}" mke2fs fio perl tar find split; do
	command -v "$c" >/dev/null || missing="$missing $c"
done
[ -z "$missing" ] || { echo "mount-ro.sh: this machine lacks:$missing" >&2; exit 2; }
mkdir -p "$MNT"

make_image() {
	local t=$WORKDIR/tree d i
	rm -rf "$t"; mkdir -p "$t"
	for i in $(seq 0 199); do # 200 directories, files of 200 to 16000 bytes
		d=$t/d$((i/20))/e$i; mkdir -p "$d"
		head -c $((NFILES/200*(200+i*79))) /dev/urandom | split -a 4 -d -b $((200+i*79)) - "$d/file"
	done
	head -c "${BIG_MB}M" /dev/urandom >"$t/big"
	rm -f "$IMG"; truncate -s $((BIG_MB*2+NFILES/20))M "$IMG"
	mke2fs -q -F -t ext4 -d "$t" "$IMG" 2>/dev/null || { rm -f "$IMG"; echo "mount-ro.sh: mke2fs failed" >&2; exit 1; }
	rm -rf "$t"; sync -f "$IMG"
}
[ -e "$IMG" ] || make_image

SRV=
fuse_pids() { # processes that hold /dev/fuse
	local p; for p in /proc/[0-9]*; do
		ls -l "$p/fd" 2>/dev/null | grep -q ' /dev/fuse$' && echo "${p#/proc/}"; done; :
}
mnt() { # COMMAND
	local i p before; before=" $(fuse_pids | tr '\n' ' ')"
	setsid $1 "$IMG" "$MNT" >>"$WORKDIR/log" 2>&1 </dev/null &
	for i in $(seq 200); do mountpoint -q "$MNT" && break; sleep 0.05; done
	mountpoint -q "$MNT" || { echo "mount-ro.sh: '$1' mounted nothing; see $WORKDIR/log" >&2; exit 1; }
	SRV=; for p in $(fuse_pids); do case $before in *" $p "*) ;; *) SRV=$p;; esac; done
}
umnt() { umount "$MNT"; [ -z "$SRV" ] || tail -f -s 0.02 --pid="$SRV" /dev/null; SRV=; }
trap 'mountpoint -q "$MNT" && umount "$MNT"' EXIT
cold() { dd if="$IMG" iflag=nocache count=0 status=none; } # drops the image from the page cache; the rest went with the mount

secs() { # NAME TEST COMMAND...: prints "NAME TEST SECONDS"
	local name=$1 test=$2 a b; shift 2
	a=$EPOCHREALTIME; (cd "$MNT" && eval "$@") >/dev/null; b=$EPOCHREALTIME
	awk -v n="$name" -v t="$test" -v a="$a" -v b="$b" 'BEGIN{printf "%s %s %.4f\n", n, t, b-a}'
}
fio_secs() { # NAME TEST ARGS...: the same, by fio's own clock
	local name=$1 test=$2 ms; shift 2
	ms=$(cd "$MNT" && $FIO "$@" | awk -F';' '/^3;/{print $9}')
	awk -v n="$name" -v t="$test" -v ms="$ms" 'BEGIN{printf "%s %s %.4f\n", n, t, ms/1000}'
}
measure() { case $2 in seq*|rand*) fio_secs "$1" "$2" $3;; *) secs "$1" "$2" "$3";; esac; }
# The memory of fio is mapped and so begins with a page: on some processors the kernel copies a whole page into memory that
# does not four times slower, and what is measured is that copy.
FIO="fio --name=j --mem=mmap --filename=big --readonly --ioengine=psync --thread --norandommap --invalidate=0 --group_reporting --output-format=terse --terse-version=3"
LIST='opendir my $r, "." or die; my @f = map { glob "$_/*" } glob "d*/*"; die unless @f > 100;'
tests=(
	"find      find . -type f"
	"newer     find . -newer d0"
	"tar       tar cf - --exclude=./big . | cat"
	"seq       --rw=read --bs=1M"
	"rand4k    --rw=randread --bs=4k --io_size=64M"
	"rand4k-4  --rw=randread --bs=4k --numjobs=4 --io_size=16M"
)
storm="perl -e '$LIST for (1..5) { for (@f) { lstat or die } }'"

run() { # NAME MOUNT-COMMAND
	local t name cmd
	for t in "${tests[@]}"; do
		name=${t%% *} cmd=${t#* }
		case " $TESTS " in *" $name "*) ;; *) continue;; esac
		cold; mnt "$2"
		measure "$1" "$name-cold" "$cmd"
		umnt; cat "$IMG" >/dev/null; mnt "$2"
		measure "$1" "$name-host" "$cmd"
		measure "$1" "$name-warm" "$cmd"
		umnt
	done
	case " $TESTS " in *" storm "*) ;; *) return;; esac
	mnt "$2"; secs "$1" warmup "$storm" >/dev/null; secs "$1" stat-storm "$storm"; umnt
}
for i in $(seq "$RUNS"); do
	run fuse2fs "$FUSE2FS"
	run e4go "$E4GO_MOUNT"
done >"$WORKDIR/figures"
sort -k1,1 -k2,2 -k3,3g "$WORKDIR/figures" | awk '
	function out() { if (c) med[key] = c % 2 ? v[(c+1)/2] : (v[c/2] + v[c/2+1]) / 2 }
	$1" "$2 != key { out(); key = $1" "$2; c = 0; if ($1 == "fuse2fs") test[++tests] = $2 }
	{ v[++c] = $3 }
	END {
		out()
		printf "%-14s %10s %10s %8s\n", "test", "fuse2fs s", "e4go s", "faster"
		for (i = 1; i <= tests; i++) {
			a = med["fuse2fs " test[i]]; b = med["e4go " test[i]]
			printf "%-14s %10.3f %10.3f %7.1fx\n", test[i], a, b, (b > 0 ? a / b : 0)
		}
	}'
