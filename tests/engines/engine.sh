#!/usr/bin/env bash
# Installs and runs real, empty Docker engines next to each other on one machine.
#
#   engine.sh install GENERATION        put the engine's root file system in place
#   engine.sh start NAME GENERATION     start an empty engine; prints its socket and its client
#   engine.sh stop NAME                 stop it and delete all of its data
#
# GENERATION is 20.10, 26.1, 28.5 (graph driver) or 28.5-containerd (image store).
# Each generation comes from a Debian release, debootstrapped from the machine's own apt source.
# Needs root. The roots are kept in $DOCKERCACHE_ENGINES (default /var/lib/dockercache-engines).
set -euo pipefail

home=${DOCKERCACHE_ENGINES:-/var/lib/dockercache-engines}

die() {
  echo "engine.sh: $*" >&2
  exit 1
}

release_of() {
  case $1 in
    20.10) echo bookworm ;;
    26.1) echo trixie ;;
    28.5 | 28.5-containerd) echo forky ;;
    *) die "unknown generation \`$1\`: use 20.10, 26.1, 28.5 or 28.5-containerd" ;;
  esac
}

packages_of() {
  case $1 in
    bookworm) echo "docker.io iptables ca-certificates" ;;
    trixie) echo "docker.io docker-cli docker-buildx iptables ca-certificates" ;;
    forky) echo "docker.io docker-cli docker-buildx docker-compose iptables ca-certificates skopeo" ;;
  esac
}

# The mirror that this machine's apt already uses.
mirror() {
  local found
  found=$(sed -n 's/^URIs: *\([^ ]*\/debian\)\/\{0,1\}$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
  [ -n "$found" ] || found=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\/debian\)\/\{0,1\} .*/\2/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1)
  [ -n "$found" ] || die "no Debian mirror in /etc/apt"
  echo "$found"
}

host_tools() {
  command -v debootstrap >/dev/null && command -v ip >/dev/null && command -v flock >/dev/null && return
  apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap iproute2 util-linux ca-certificates >&2
}

install_root() {
  local release=$1 root=$home/$1 script=$1
  [ -e "$root/.ready" ] && return
  host_tools
  mkdir -p "$home"
  exec 9>"$home/$release.lock"
  flock 9
  [ -e "$root/.ready" ] && return
  echo "engine.sh: installing $release (about a minute)" >&2
  rm -rf "$root"
  [ -e "/usr/share/debootstrap/scripts/$script" ] || script=sid
  debootstrap --variant=minbase "$release" "$root" "$(mirror)" "/usr/share/debootstrap/scripts/$script" >"$home/$release.log" 2>&1 ||
    die "debootstrap of $release failed: see $home/$release.log"
  # No service may start inside the root.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  # shellcheck disable=SC2046 # the list is meant to be split
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends \
    $(packages_of "$release") >>"$home/$release.log" 2>&1 || die "packages of $release failed: see $home/$release.log"
  chroot "$root" apt-get clean
  touch "$root/.ready"
}

for g in "${@:2}"; do [ "$1" = install ] && install_root "$(release_of "$g")"; done
