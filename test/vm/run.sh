#!/bin/sh
# Runs end-to-end tests in a small virtual machine with a kernel of Debian's and
# cgroup v2, whatever the machine beneath has:
#
#	test/vm/run.sh [-test.run=PATTERN] [-test.v] ...
#
# The arguments are the test binary's. It needs root, apt, and `make build
# images`; nothing stays behind but bin/vm, where the pieces are kept. Under
# software emulation everything takes about ten times its time.
set -eu
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- -test.v -test.run='TestBinPackingAndLimits|TestLifetime'
dir=bin/vm
mkdir -p $dir

need=""
for tool in qemu-system-x86_64:qemu-system-x86 cpio:cpio depmod:kmod mke2fs:e2fsprogs; do
  command -v "${tool%%:*}" >/dev/null || need="$need ${tool##*:}"
done
if [ -n "$need" ]; then
  echo "installing$need"
  apt-get update -qq
  # shellcheck disable=SC2086 # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
fi

if [ ! -e $dir/kernel ]; then
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
  (cd $dir && apt-get download -qq "$package" busybox-static -o APT::Sandbox::User=root)
  rm -rf $dir/debian
  for deb in $dir/*.deb; do dpkg-deb -x "$deb" $dir/debian; done
  rm $dir/*.deb
  mv "$(ls $dir/debian/boot/vmlinuz-*)" $dir/kernel
fi
version=$(ls $dir/debian/lib/modules)
[ -e "$dir/debian/lib/modules/$version/modules.dep" ] || depmod -b $dir/debian "$version"

# The first root only finds the disk: its driver is a module.
early=$dir/early
rm -rf $early && mkdir -p $early/bin $early/dev $early/root
cp $dir/debian/bin/busybox $early/bin/
mknod $early/dev/console c 5 1 # where init speaks, before there is a devtmpfs
modules=$(for m in virtio_pci virtio_blk; do
  grep "/$m.ko:" "$dir/debian/lib/modules/$version/modules.dep" | awk -F': ' '{n = split($2, d, " "); for (i = n; i > 0; i--) print d[i]; print $1}'
done | awk '!seen[$0]++')
for m in $modules; do cp "$dir/debian/lib/modules/$version/$m" $early/; done
{
  echo '#!/bin/busybox sh'
  for m in $modules; do echo "/bin/busybox insmod /${m##*/}"; done
  echo '/bin/busybox mount -t devtmpfs none /dev; echo looking for the disk'
  echo 'while [ ! -e /dev/vda ]; do /bin/busybox usleep 10000; done'
  echo '/bin/busybox mount -t ext4 /dev/vda /root'
  echo 'exec /bin/busybox switch_root /root /init'
} >$early/init
chmod +x $early/init
(cd $early && find . | cpio -o -H newc --quiet) >$dir/initrd

# The second is the machine: the kernel's modules, busybox, and the checkout as
# far as the tests read it.
root=$dir/root
rm -rf $root && mkdir -p $root/proc $root/sys $root/dev $root/tmp $root/run $root/var/lib $root/root $root/etc $root/sbin $root/usr/bin $root/usr/sbin $root/proa/test/e2e $root/proa/bin
cp -a $dir/debian/lib $dir/debian/bin $root/
$root/bin/busybox --list-full | while read -r applet; do
  [ -e "$root/$applet" ] || ln -s /bin/busybox "$root/$applet"
done
cp -a bin/proa bin/images $root/proa/bin/
[ ! -e bin/kubectl ] || cp -a bin/kubectl bin/kubectl-older $root/proa/bin/
cp -a examples $root/proa/
CGO_ENABLED=0 "${GO:-go}" test -c -ldflags '-s -w' -o $root/proa/test/e2e/e2e.test ./test/e2e
echo 'root:x:0:0:root:/root:/bin/sh' >$root/etc/passwd
echo 'nameserver 192.0.2.1' >$root/etc/resolv.conf
echo vm >$root/etc/hostname
cat >$root/init <<'INIT'
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /tmp
mount -t tmpfs none /run
mount -t cgroup2 none /sys/fs/cgroup
hostname vm
ip link set lo up
echo "kernel $(uname -r), cgroup controllers: $(cat /sys/fs/cgroup/cgroup.controllers)"
cd /proa/test/e2e
mkdir /var/work && export TMPDIR=/var/work
./e2e.test $(cat /arguments)
echo "the tests ended with $?"
poweroff -f
INIT
chmod +x $root/init
echo "$@" >$root/arguments
rm -f $dir/disk
mke2fs -q -t ext4 -E root_owner=0:0 -d $root $dir/disk 4G

timeout "${VM_TIMEOUT:-1800}" qemu-system-x86_64 -accel "${VM_ACCEL:-tcg,thread=multi}" -cpu max -smp 2 -m 3G -nographic -no-reboot \
  -kernel $dir/kernel -initrd $dir/initrd -append 'console=ttyS0 loglevel=4 panic=-1' \
  -drive file=$dir/disk,if=virtio,format=raw,cache=unsafe -nic none </dev/null | tee $dir/console
rm -rf $root $dir/disk
grep -q 'the tests ended with 0' $dir/console
