#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash disable=SC1091
# /init of the test VM. Stage 1 runs in the initramfs: it loads modules, gets the job from the host
# and mounts the root (the host's, read-only over 9p, below a tmpfs). Stage 2 runs in that root: it
# mounts the kernel's file systems and pure cgroup v2, runs the command, reports and powers off.
#
# The host (run.sh) talks over three virtio-serial ports. vm.ctl: we write "ready", the host sends
# the size of the job in bytes, a newline and the job, a shell script; we write "rc N" at the end.
# vm.out and vm.err: the command's stdout and stderr.

port() { # the device of the virtio-serial port named $1
  for p in /sys/class/virtio-ports/*; do
    [ "$(cat "$p/name")" = "$1" ] && echo "/dev/${p##*/}" && return
  done
}

power_off() { # isa-debug-exit: ACPI takes seconds to minutes with many emulated CPUs
  sync
  printf '\0' | dd of=/dev/port bs=1 count=1 seek=1281 2>/dev/null
  poweroff -f
}

die() {
  echo "init: $*" >/dev/console
  power_off
}

stage1() {
  export PATH=/bin:/sbin
  /bin/busybox mount -t proc proc /proc
  /bin/busybox --install -s /bin
  mount -t devtmpfs dev /dev
  mount -t sysfs sysfs /sys
  # -q: what is built into this kernel is no error
  modprobe -q virtio_pci
  modprobe -q overlay
  for alias in /sys/bus/virtio/devices/*/modalias; do modprobe -q "$(cat "$alias")"; done
  modprobe -q 9p

  n=0 # the ports appear by and by
  while [ -z "$(port vm.ctl)" ] && [ $n -lt 500 ]; do
    usleep 10000
    n=$((n + 1))
  done
  exec 3<>"$(port vm.ctl)"
  echo ready >&3
  read -r size <&3
  head -c "$size" <&3 >/job
  exec 3>&-
  . /job
  [ -z "$JOB_VERBOSE" ] || dmesg -n 8
  date -s "@$JOB_DATE" >/dev/null

  mkdir -p /lower /rw /newroot
  mount -t tmpfs -o mode=755 rw /rw
  mkdir /rw/upper /rw/work
  mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower
  mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /newroot ||
    die "cannot mount the root"

  # What stage 2 needs of the new root; none of it reaches the host.
  mkdir -p /newroot/dev /newroot/proc /newroot/sys /newroot/run /newroot/lib/modules /newroot/sbin
  mount --move /dev /newroot/dev
  mount -t tmpfs -o mode=755 run /newroot/run
  mkdir /newroot/run/vm
  cp /bin/busybox /init /job /newroot/run/vm/
  release=$(uname -r)
  if [ ! -d "/newroot/lib/modules/$release" ]; then
    mkdir -p "/newroot/lib/modules/$release"
    mount -o bind "/newroot$JOB_MODULES/$release" "/newroot/lib/modules/$release"
  fi
  # The kernel loads fuse, loop, ext4 and the like by itself, with busybox's modprobe: the root may
  # have none, or one that wants another index.
  ln -s busybox /newroot/run/vm/modprobe
  echo /run/vm/modprobe >/proc/sys/kernel/modprobe
  [ -e /newroot/sbin/modprobe ] || ln -s /run/vm/busybox /newroot/sbin/modprobe
  : >/newroot/etc/fstab # the host's mounts are not here
  # Moved, not mounted later: until then /proc/self/exe would be looked up in the /proc that 9p
  # exports, which is the host's.
  mount --move /proc /newroot/proc
  mount --move /sys /newroot/sys
  exec switch_root /newroot /run/vm/busybox sh /run/vm/init stage2
}

stage2() {
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export PATH
  . /run/vm/job
  # Nodes whose opening loads the module
  mkdir -p /dev/net
  for node in fuse:229 loop-control:237 net/tun:200; do
    [ -e "/dev/${node%:*}" ] || mknod -m 666 "/dev/${node%:*}" c 10 "${node#*:}"
  done
  mkdir -p /dev/pts /dev/shm
  mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
  mount -t tmpfs -o mode=1777 shm /dev/shm
  # The job's own folder stays in sight where it is below /tmp.
  mkdir -p /run/vm/cwd
  mount -o bind "$JOB_CWD" /run/vm/cwd
  case $JOB_CWD in /tmp/*) mkdir -p "$JOB_CWD" && mount -o bind /run/vm/cwd "$JOB_CWD" ;; esac
  ln -sf /proc/self/fd /dev/fd
  ln -sf fd/0 /dev/stdin
  ln -sf fd/1 /dev/stdout
  ln -sf fd/2 /dev/stderr
  mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
  # As systemd has it, which never enables hugetlb.
  for controller in cpuset cpu io memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
  done
  ip link set lo up
  hostname vm
  for device in $JOB_SWAPS; do
    mkswap "$device" >/dev/null
    swapon "$device"
  done
  for share in $JOB_SHARES; do # tag:directory
    mkdir -p "${share#*:}"
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap "${share%%:*}" \
      "${share#*:}"
  done
  run_job
}

run_job() {
  if [ "$JOB_TTY" = 1 ]; then
    cd "$JOB_CWD" || cd /
    setsid cttyhack /bin/sh /run/vm/job run </dev/console >/dev/console 2>&1
    status=$?
  else
    # A port can be opened only once, so that "echo >/dev/stderr" would fail on it: the command
    # gets pipes, which are pumped.
    mkfifo /run/vm/out /run/vm/err
    cat /run/vm/out >"$(port vm.out)" &
    out=$!
    cat /run/vm/err >"$(port vm.err)" &
    err=$!
    (
      cd "$JOB_CWD" || cd /
      exec setsid /bin/sh /run/vm/job run </dev/null >/run/vm/out 2>/run/vm/err
    )
    status=$?
    n=0 # a daemon that was left behind may hold the pipes
    while kill -0 $out 2>/dev/null || kill -0 $err 2>/dev/null; do
      [ $n -lt 40 ] || break
      usleep 25000
      n=$((n + 1))
    done
  fi
  sync
  echo "rc $status" >"$(port vm.ctl)"
  power_off
}

case $1 in
  stage2) stage2 ;;
  *) stage1 ;;
esac
