#!/usr/bin/env bash
# Makes a release, on any Linux machine with Rust:
#
#   release.sh [DIRECTORY]    default: dist
#   release.sh --check        only compare the versions: of Cargo.toml, the orb, the action and the tag
#
#   dockercache-linux-amd64, -arm64   static programs
#   dockercache.cdx.json              what they are made of (CycloneDX)
#   SHA256SUMS                        the sums of all of these in the directory
#   orb.yml                           the packed orb, with these sums in it
#
# Makes the program for every processor that this machine can make it for: its own, and the other
# one if Rust has its target (`rustup target add aarch64-unknown-linux-gnu`) and there is a C compiler
# for it (Debian: gcc-aarch64-linux-gnu). What lies in the directory already is kept and summed up.
# The same sources, Rust and C compiler give the same bytes, in any directory and at any time.
#
# Environment:
#   TARGETS    the Rust targets, if not all that can be made
#   TAG        the tag that is released, if one is (on CircleCI: CIRCLE_TAG)
set -euo pipefail
shopt -s inherit_errexit

cyclonedx=0.5.7

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cd "$here"

# What downloads the programs names the version that is made here.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
tag=${TAG:-${CIRCLE_TAG:-v$version}}
named=$(sed -n '/^  version:$/,/default:/s/^ *default: //p' orb/commands/*.yml orb/jobs/*.yml action.yml | sort -u)
if [ "$named" != "$version" ] || [ "$tag" != "v$version" ]; then
  echo "release.sh: the tag $tag, Cargo.toml ($version), and orb and action ($named) must be of one version" >&2
  exit 1
fi
if [ "${1:-}" = --check ]; then exit 0; fi
cd "$OLDPWD"
dist=$(realpath --canonicalize-missing "${1:-$here/dist}")
cd "$here"

host=$(rustc --version --verbose | sed -n 's/^host: //p')
target_dir=$(cargo metadata --no-deps --format-version 1 |
  sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# The C compiler for a target.
compiler() {
  if [ "$1" = "$host" ]; then echo cc; else echo "${1%%-*}-linux-gnu-gcc"; fi
}

can_make() {
  [ -d "$sysroot/lib/rustlib/$1/lib" ] && command -v "$(compiler "$1")" >/dev/null
}

make_program() {
  local target=$1 name
  case $target in
    x86_64-*-linux-*) name=dockercache-linux-amd64 ;;
    aarch64-*-linux-*) name=dockercache-linux-arm64 ;;
    *) echo "release.sh: no release is made for $target" >&2 && exit 2 ;;
  esac
  # None of this machine's directories may be in the program.
  local flags=(
    -C target-feature=+crt-static
    -C "linker=$(compiler "$target")"
    --remap-path-prefix "$here=/dockercache"
    --remap-path-prefix "$target_dir=/target"
    --remap-path-prefix "$cargo_home=/cargo"
    --remap-path-prefix "$sysroot=/rust"
  )
  env RUSTFLAGS="${flags[*]}" CFLAGS="-ffile-prefix-map=$cargo_home=/cargo -g0" \
    "CC_${target//-/_}=$(compiler "$target")" \
    cargo build --release --locked --target "$target"
  install -m 755 "$target_dir/$target/release/dockercache" "$dist/$name"
  if [ "$target" = "$host" ]; then [ "$("$dist/$name" --version)" = "dockercache $version" ]; fi
  if readelf --program-headers "$dist/$name" | grep -q INTERP; then
    echo "release.sh: $name needs a dynamic loader" >&2
    exit 1
  fi
}

# Of one version of one program, so that the list is the same everywhere. The time, the number and
# the directory of its making are no part of it.
make_bill_of_materials() {
  local tools="$target_dir/tools/cyclonedx-$cyclonedx"
  if [ ! -x "$tools/bin/cargo-cyclonedx" ]; then
    cargo install --quiet --locked --root "$tools" "cargo-cyclonedx@$cyclonedx"
  fi
  "$tools/bin/cargo-cyclonedx" cyclonedx --format json --spec-version 1.5 --target all \
    --override-filename dockercache.cdx --quiet
  sed -e '/^  "serialNumber":/d' -e '/^    "timestamp":/d' -e "s|path+file://$here#||" \
    dockercache.cdx.json >"$dist/dockercache.cdx.json"
  rm dockercache.cdx.json
}

# With the sums of this release, in a copy.
pack_orb() {
  local work
  work=$(mktemp -d)
  cp -R orb "$work/"
  cp "$dist/SHA256SUMS" "$work/orb/scripts/SHA256SUMS"
  cargo run --quiet --locked --example pack-orb -- "$work/orb" >"$work/orb.yml"
  install -m 644 "$work/orb.yml" "$dist/orb.yml"
  rm -r "$work"
}

case $host in
  x86_64-*) other=aarch64-unknown-linux-gnu ;;
  *) other=x86_64-unknown-linux-gnu ;;
esac
mkdir -p "$dist"
for target in ${TARGETS:-$host $other}; do
  if [ -n "${TARGETS:-}" ] || can_make "$target"; then
    make_program "$target"
  else
    echo "release.sh: no program for $target: Rust's target or $(compiler "$target") is missing" >&2
  fi
done
make_bill_of_materials
(cd "$dist" && sha256sum dockercache-linux-* dockercache.cdx.json >SHA256SUMS)
pack_orb

cd "$dist"
sha256sum --check --quiet SHA256SUMS
ls -l
cat SHA256SUMS
