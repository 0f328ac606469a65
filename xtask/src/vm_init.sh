#!/bin/busybox sh
# The first process of the virtual machine (vm.rs): makes a system of the host's files and runs what is to be run.
# The host's files are only read; what is written goes to memory.
fail() {
    echo "vm: $1" >/dev/hvc0
    busybox poweroff -f
}
export PATH=/bin
mount() { busybox mount "$@" || fail "cannot mount: $*"; }

busybox mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
    busybox insmod "/modules/$module" || fail "cannot load $module"
done </modules/order
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /host
mount -t tmpfs tmpfs /written
busybox mkdir /written/upper /written/work
mount -t overlay -o lowerdir=/host,upperdir=/written/upper,workdir=/written/work overlay /root

# From here on as any system has it; devices of the host's and its namespaces are not this one's.
cd /root || fail "no root"
busybox mkdir -p proc sys dev run lib/modules
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
busybox mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t bpf bpf sys/fs/bpf
mount -o bind "/host$(busybox cat /modules/folder)" lib/modules
busybox cp /inside run/inside
# In this very process: the kernel looks for modprobe where the root of the first process is.
exec busybox chroot /root /bin/sh /run/inside
