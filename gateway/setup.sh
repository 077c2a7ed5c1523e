#!/bin/sh
# Installs what building, demonstrating and testing Culvert needs beyond a Rust toolchain, on Debian 12.
# Does nothing, and needs no network, when all of it is there.
set -eu

# build: cmake and a C compiler for NNG, which the bus stands on; OpenSSL for libssh2, which `culvert remote` stands on
# run:   strongSwan's charon with its plugins, chrony for the time
# lab:   the hosts' tools; test: lost messages, certificates, logging in over SSH, an independent peer, a routing daemon,
#        name, time and DHCP servers, a Python environment for scapy
packages="
    cmake gcc g++ libc6-dev libssl-dev make pkg-config
    strongswan-charon strongswan-swanctl strongswan-pki
    libstrongswan-standard-plugins libstrongswan-extra-plugins libcharon-extra-plugins libcharon-extauth-plugins
    bird2 chrony dnsmasq-base ethtool iperf3 iproute2 iputils-ping kmod nftables openssh-client openssh-server openssl procps
    python3-venv
"

missing=
for package in $packages; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup needs root to install:$missing" >&2
        exit 1
    fi
    # A policy that lets no package start its service: the demonstration starts a charon of its own for
    # each gateway, and none of the machine's.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    install() {
        # shellcheck disable=SC2086 # one word a package
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
    }
    # The lists of a machine that was just set up are fresh; only if they do not do are they fetched.
    install || { apt-get update && install; }
    case "$missing" in
        *strongswan*)
            if [ -d /run/systemd/system ]; then
                systemctl disable --now strongswan-starter.service
            fi
            ;;
    esac
    case "$missing" in
        *openssh-server*)
            if [ -d /run/systemd/system ]; then
                systemctl disable --now ssh.service
            fi
            ;;
    esac
    case "$missing" in
        *bird2*)
            if [ -d /run/systemd/system ]; then
                systemctl disable --now bird.service
            fi
            ;;
    esac
    case "$missing" in
        *chrony*)
            if [ -d /run/systemd/system ]; then
                systemctl disable --now chrony.service
            fi
            ;;
    esac
fi

# A machine may have them built in, or be a container that has no modules of its own.
modprobe --all --quiet tun veth 2>/dev/null || true
if [ ! -c /dev/net/tun ]; then
    echo "setup: there is no /dev/net/tun; the kernel needs CONFIG_TUN" >&2
    exit 1
fi
if ! command -v cargo >/dev/null; then
    echo "setup: there is no cargo; install a Rust toolchain (https://rustup.rs)" >&2
    exit 1
fi
