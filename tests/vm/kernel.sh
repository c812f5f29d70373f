#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes Debian's kernel bootable by run.sh, as plain files below the cache folder: it is downloaded
# with apt-get and unpacked, nothing is installed.
#
#   kernel.sh FOLDER [SUITE]     leaves FOLDER/{vmlinux,initrd,lib/modules/VERSION}
#
# SUITE: that of the machine, or a newer kernel from bookworm-backports.
#
#  - vmlinux is the ELF image inside vmlinuz: QEMU enters it through its PVH note, which saves an
#    emulated decompression of about 3 s at each boot.
#  - initrd holds busybox, init.sh and the few modules that it takes to reach the root over 9p.
#  - The other modules stay in lib/modules; the guest sees them through its root.
#
# Needs apt-get, dpkg-deb, python3, xz (zstd, lz4 where the kernel has those) and a static busybox.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
out=$1 suite=${2:-}
mkdir -p "$(dirname "$out")"
tmp=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

# In a state of its own: the machine's package lists stay as they are.
apt=()
if [ -n "$suite" ]; then
  mkdir -p "$tmp/apt/lists/partial" "$tmp/apt/cache/archives/partial"
  : >"$tmp/apt/status"
  # shellcheck disable=SC2016  # apt-get's, not the shell's
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | head -n 1)
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb [signed-by=$keys] $mirror $suite main" >"$tmp/apt/sources.list"
  apt=(-o "Dir::Etc::sourcelist=$tmp/apt/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$tmp/apt/lists" -o "Dir::Cache=$tmp/apt/cache"
    -o "Dir::State::status=$tmp/apt/status" -o APT::Sandbox::User=root)
  apt-get "${apt[@]}" -qq update
fi
package=$(apt-cache "${apt[@]}" depends linux-image-amd64 | awk '/Depends:/ { print $2; exit }')
[ -n "$package" ] || { echo "kernel.sh: apt-get knows no linux-image-amd64" >&2; exit 1; }
(cd "$tmp" && apt-get "${apt[@]}" -qq -o APT::Sandbox::User=root download "$package")
dpkg-deb -x "$tmp"/*.deb "$tmp/package"

new=$tmp/new
mkdir -p "$new/lib"
for modules in "$tmp"/package/{,usr/}lib/modules; do
  [ ! -d "$modules" ] || mv "$modules" "$new/lib/"
done
version=$(ls "$new/lib/modules")
modules=$new/lib/modules/$version

# bzImage header -> payload -> ELF (Documentation/arch/x86/boot.rst)
python3 - "$tmp/package/boot/vmlinuz-$version" "$new/vmlinux" <<'PY'
import struct, subprocess, sys
image = open(sys.argv[1], 'rb').read()
assert image[0x202:0x206] == b'HdrS', 'not a bzImage'
offset, length = struct.unpack_from('<II', image, 0x248)
start = ((image[0x1f1] or 4) + 1) * 512 + offset
payload = image[start:start + length - 4]       # the last 4 bytes are the unpacked size
tool = {b'\xfd7zX': 'xz', b'(\xb5/\xfd': 'zstd', b'\x02!L\x18': 'lz4'}[payload[:4]]
with open(sys.argv[2], 'wb') as vmlinux:
    subprocess.run([tool, '-dc'], input=payload, stdout=vmlinux, check=True)
PY

# Without the drivers of real hardware, and uncompressed, so that busybox can load them.
(cd "$modules/kernel" && rm -rf sound arch/x86/kvm net/{wireless,bluetooth,mac80211,nfc} \
  drivers/{gpu,media,staging,infiniband,iio,usb,hwmon,input,isdn,platform,thermal,mmc,mtd,hid} \
  drivers/{leds,firewire,comedi,bluetooth,video,watchdog,i2c,spi,power,pinctrl,gpio,accel} \
  drivers/net/{ethernet,wireless,usb,phy,can,wwan,arcnet,fddi,hamradio})
find "$modules" -name '*.ko.xz' -print0 | xargs -0 -r -P"$(nproc)" -n50 xz -d
busybox depmod -b "$new" "$version"

initrd=$tmp/initrd
mkdir -p "$initrd"/{bin,dev,proc,sys,etc,sbin} "$initrd/lib/modules/$version"
cp "$(command -v busybox)" "$initrd/bin/busybox"
ln -s busybox "$initrd/bin/sh"
ln -s ../bin/busybox "$initrd/sbin/modprobe" # the kernel calls it, for crc32c
install -m755 "$here/init.sh" "$initrd/init"
cp "$modules"/modules.{order,builtin,builtin.modinfo} "$initrd/lib/modules/$version/"
for module in virtio_pci virtio_console virtio_blk 9pnet_virtio 9p overlay crc32c_generic; do
  line=$(grep -E "(^|/)$module\.ko:" "$modules/modules.dep" || :) # empty: built in
  tr ' ' '\n' <<<"${line/:/}"
done | sed '/^$/d' | sort -u |
  (cd "$modules" && xargs cp --parents -t "$initrd/lib/modules/$version")
busybox depmod -b "$initrd" "$version"
(cd "$initrd" && find . | busybox cpio -o -H newc 2>/dev/null) >"$new/initrd"

rm -rf "$out"
mv "$new" "$out"
