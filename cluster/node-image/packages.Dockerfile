# The packages of a node: init system, container runtime, network plugins.
FROM localhost/node-base:1
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Options::=--force-unsafe-io install -y -q --no-install-recommends \
      systemd systemd-sysv containerd runc containernetworking-plugins ethtool socat nftables kmod \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
# nothing here manages hardware, logins or package updates
RUN systemctl -q set-default multi-user.target && systemctl -q mask systemd-udevd.service systemd-udevd-kernel.socket \
      systemd-udevd-control.socket systemd-logind.service getty.target console-getty.service apt-daily.timer \
      apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer systemd-binfmt.service \
      systemd-modules-load.service systemd-sysctl.service systemd-random-seed.service systemd-pstore.service \
      systemd-firstboot.service systemd-tmpfiles-setup.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
      systemd-tmpfiles-clean.timer systemd-initctl.socket sys-fs-fuse-connections.mount sys-kernel-config.mount \
      sys-kernel-debug.mount sys-kernel-tracing.mount modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service \
      modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service dev-hugepages.mount dev-mqueue.mount \
    && systemctl -q enable containerd.service \
    && mkdir -p /etc/systemd/journald.conf.d /etc/kubernetes/manifests /etc/cni/net.d \
    && printf '[Journal]\nReadKMsg=no\nStorage=volatile\nRuntimeMaxUse=64M\n' > /etc/systemd/journald.conf.d/node.conf
