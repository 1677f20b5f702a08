#!/usr/bin/env bash
# Installs, by apt, what is missing for `make demo`, `make test` or `make bench-dns`. Does nothing
# where everything is there, and says what to install where apt or root is not.
set -euo pipefail

case "${1:-}" in
demo) wanted=() ;; # the demo needs the kernel and the binary only
test) wanted=(dockerd:docker.io iptables:iptables wg:wireguard-tools tcpdump:tcpdump nft:nftables ip:iproute2
	ping:iputils-ping busybox:busybox-static nsenter:util-linux dig:dnsutils kdig:knot-dnsutils drill:ldnsutils
	python3:python3 musl-gcc:musl-tools strace:strace
	gcc:gcc /usr/include/stdlib.h:libc6-dev) ;; # the race detector needs cgo
bench-dns) wanted=(dnsperf:dnsperf dnsmasq:dnsmasq-base unbound:unbound dig:dnsutils) ;;
*) echo "usage: $0 demo|test|bench-dns" >&2; exit 2 ;;
esac

# Unpacked, not installed: as a service it would take over the machine's own name resolution.
resolved=/var/cache/weft-test/systemd-resolved
unpack=()
if [ "$1" = test ] && [ ! -x $resolved/lib/systemd/systemd-resolved ]; then unpack=(systemd-resolved libsystemd-shared); fi

PATH=$PATH:/usr/sbin:/sbin
missing=()
for w in ${wanted[@]+"${wanted[@]}"}; do # a command, or a file, and its package
	case $w in /*) [ -e "${w%%:*}" ] && continue ;; esac
	command -v "${w%%:*}" >/dev/null || missing+=("${w##*:}")
done
if [ ${#missing[@]} -eq 0 ] && [ ${#unpack[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing: ${missing[*]} ${unpack[*]} (Debian package names); install them and try again" >&2
	exit 1
fi
echo "installing: ${missing[*]} ${unpack[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# The engine must not start on the machine itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; fi
fetched=$(mktemp -d)
trap '[ -z "$made" ] || rm -f $policy; rm -rf "$fetched"' EXIT
apt-get update -qq
if [ ${#missing[@]} -gt 0 ]; then apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; fi
if [ ${#unpack[@]} -gt 0 ]; then
	chmod 755 "$fetched"
	(cd "$fetched" && apt-get -o APT::Sandbox::User=root download -qq "${unpack[@]}")
	mkdir -p $resolved
	for deb in "$fetched"/*.deb; do dpkg -x "$deb" $resolved; done
fi
