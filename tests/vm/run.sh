#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command in a throw-away virtual machine and exits with its code.
#
#   run.sh [OPTION...] [--] COMMAND [ARG...]
#
# The machine has a Debian kernel, pure cgroup v2 with all controllers, pressure stall information,
# and this machine's own root file system (read-only, below a tmpfs that takes what is written), so
# COMMAND is a command of this machine, run as root from the same folder. Nothing that it does
# comes out, but through --rw. There is no network. The CPUs are emulated: 10 to 20 times slower.
#
#   -c, --cpus N         CPUs (8)
#   -m, --mem SIZE       memory (2G)
#   -n, --numa N         NUMA nodes; CPUs and memory are shared out evenly (1)
#       --disk SIZE      an empty disk (repeatable): see $VM_DISKS in the machine
#       --swap SIZE      swap on a disk of its own
#   -k, --kernel SUITE   the kernel of another suite: bookworm-backports
#       --rw FOLDER      share FOLDER read-write at the same place (repeatable)
#   -e, --env NAME[=V]   pass an environment variable (repeatable); PATH, HOME and LANG always are
#   -t, --timeout SEC    end it after SEC seconds and exit with 124 (300)
#   -a, --append ARGS    more kernel arguments
#   -i, --interactive    COMMAND (bash) gets the terminal as its console
#   -v, --verbose        show the kernel's console on stderr
#
# Exit code: COMMAND's; 124: time is up; 125: the machine failed (its console is then shown).
# shellcheck disable=SC2054,SC2317  # QEMU's options have commas; cleanup is called by a trap
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/umwelt/vm

usage() { sed -n '3,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0"; }
die() {
  echo "vm: $*" >&2
  exit 125
}

cpus=8 mem=2G numa=1 timeout=300 suite='' append='' tty=0 verbose=''
disks=() swaps=() shares=() envs=(PATH HOME LANG)
while [ $# -gt 0 ]; do
  case $1 in
    -c | --cpus) cpus=$2; shift ;;
    -m | --mem) mem=$2; shift ;;
    -n | --numa) numa=$2; shift ;;
    --disk) disks+=("$2"); shift ;;
    -k | --kernel) suite=$2; shift ;;
    --swap) swaps+=("$2"); shift ;;
    --rw) shares+=("$2"); shift ;;
    -e | --env) envs+=("$2"); shift ;;
    -t | --timeout) timeout=$2; shift ;;
    -a | --append) append=$2; shift ;;
    -i | --interactive) tty=1 ;;
    -v | --verbose) verbose=1 ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    -*) die "unknown option $1" ;;
    *) break ;;
  esac
  shift
done
if [ $# -eq 0 ]; then
  [ $tty = 1 ] || die "no command"
  set -- bash
fi

kernel=$cache/kernel${suite:+-$suite}
# The initramfs holds init.sh, so a newer one makes it again.
if [ ! -f "$kernel/initrd" ] || [ "$here/init.sh" -nt "$kernel/initrd" ] ||
  [ "$here/kernel.sh" -nt "$kernel/initrd" ]; then
  "$here/kernel.sh" "$kernel" "$suite" >&2 || die "no kernel"
fi

quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; } # for any POSIX shell

run=$(mktemp -d "${TMPDIR:-/tmp}/umwelt-vm.XXXXXX")
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || :; done
  rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- the machine -----------------------------------------------------------------------------------
# lpj, tsc_early_khz, tsc: no calibration, and no slow clock, under emulation
khz=$(awk '/^cpu MHz/ { print int($4 * 1000); exit }' /proc/cpuinfo)
kernel_args="console=ttyS0 panic=-1 oops=panic mitigations=off nokaslr no_timer_check tsc=reliable \
tsc_early_khz=${khz:-2000000} lpj=$((${khz:-2000000} * 4)) cryptomgr.notests=1 random.trust_cpu=on \
psi=1 loglevel=4 $append"
threads=multi
[ "$cpus" -le 8 ] || threads=single # more emulation threads than that only get in each other's way
args=(-accel "tcg,thread=$threads,tb-size=512" -cpu max,la57=off -smp "$cpus,sockets=$numa"
  -m "$mem" -M "q35,hpet=off,smbus=off,vmport=off,graphics=off"
  -nodefaults -no-user-config -display none -nic none -no-reboot
  -device isa-debug-exit,iobase=0x501,iosize=1 -device virtio-serial-pci,id=vser
  -kernel "$kernel/vmlinux" -initrd "$kernel/initrd" -append "$kernel_args"
  -fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
  -device virtio-9p-pci,fsdev=root,mount_tag=root)
if [ "$numa" -gt 1 ]; then
  size=$(($(numfmt --from=iec "$mem") / numa)) width=$((cpus / numa))
  for ((i = 0; i < numa; i++)); do
    last=$((i == numa - 1 ? cpus - 1 : i * width + width - 1))
    args+=(-object "memory-backend-ram,id=ram$i,size=$size"
      -numa "node,nodeid=$i,memdev=ram$i,cpus=$((i * width))-$last")
  done
fi

disk_count=0
add_disk() { # of size $1; sets $device
  local letters=abcdefgh
  truncate -s "$1" "$run/disk$disk_count"
  args+=(-drive "if=none,id=d$disk_count,file=$run/disk$disk_count,format=raw,cache=unsafe"
    -device "virtio-blk-pci,drive=d$disk_count")
  device=/dev/vd${letters:disk_count:1}
  disk_count=$((disk_count + 1))
}
vm_disks='' vm_swaps='' vm_shares=''
for size in "${disks[@]}"; do
  add_disk "$size"
  vm_disks+="${vm_disks:+ }$device"
done
for size in "${swaps[@]}"; do
  add_disk "$size"
  vm_swaps+=" $device"
done
for i in "${!shares[@]}"; do
  share=$(realpath "${shares[i]}")
  args+=(-fsdev "local,id=rw$i,path=$share,security_model=none,multidevs=remap"
    -device "virtio-9p-pci,fsdev=rw$i,mount_tag=rw$i")
  vm_shares+=" rw$i:$share"
done

# --- the job: what init.sh reads, and (with "run") the command itself ------------------------------
{
  for setting in "DATE=$(date +%s)" "MODULES=$kernel/lib/modules" "CWD=$PWD" "TTY=$tty" \
    "SWAPS=$vm_swaps" "SHARES=$vm_shares" "VERBOSE=$verbose"; do
    echo "JOB_${setting%%=*}=$(quote "${setting#*=}")"
  done
  # shellcheck disable=SC2016  # expands in the machine
  echo 'if [ "$1" = run ]; then'
  for variable in "${envs[@]}"; do
    case $variable in
      *=*) ;;
      *)
        [ -n "${!variable+x}" ] || continue
        variable=$variable=${!variable} ;;
    esac
    echo "export ${variable%%=*}=$(quote "${variable#*=}")"
  done
  echo "export VM=1 VM_DISKS=$(quote "$vm_disks")"
  printf exec
  for word; do printf ' %s' "$(quote "$word")"; done
  printf '\nfi\n'
} >"$run/job"

# --- run ---------------------------------------------------------------------------------------------
if [ $tty = 1 ]; then
  serial=(-serial mon:stdio)
elif [ -n "$verbose" ]; then
  mkfifo "$run/console"
  serial=(-serial "file:$run/console")
  cat "$run/console" >&2 &
  pids+=($!)
else
  serial=(-serial "file:$run/console")
fi
mkfifo "$run"/ctl.{in,out} "$run/out" "$run/err"
# Kept open here, so that nothing blocks and nothing is lost when QEMU ends.
exec 8<>"$run/ctl.out" 9<>"$run/ctl.in"
cat "$run/out" &
pump_out=$!
cat "$run/err" >&2 &
pump_err=$!
pids+=("$pump_out" "$pump_err")
port() {
  args+=(-chardev "$2,id=$1,path=$run/$1"
    -device "virtserialport,bus=vser.0,nr=$3,chardev=$1,name=vm.$1")
}
port ctl pipe 1
port out file 2
port err file 3
timeout --foreground "$timeout" qemu-system-x86_64 "${args[@]}" "${serial[@]}" <&0 &
qemu=$!
pids+=("$qemu")
{ stat -c %s "$run/job" && cat "$run/job"; } >&9
status=0
wait "$qemu" || status=$? # isa-debug-exit makes QEMU itself exit with 1
wait "$pump_out" "$pump_err" || :

result=''
while read -r -t 0.01 word value <&8; do [ "$word" != rc ] || result=$value; done || :
[ -z "$result" ] || exit "$result"
if [ "$status" = 124 ]; then
  echo "vm: ended after $timeout s" >&2
  exit 124
fi
[ -n "$verbose" ] || tail -n 40 "$run/console" 2>/dev/null | tr -d '\r' >&2 || :
die "the machine ended without a result"
