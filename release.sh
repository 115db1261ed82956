#!/usr/bin/env bash
# Makes a release, on any Linux machine with Rust:
#
#   release.sh [DIRECTORY]    default: dist
#
#   dockercache-linux-amd64 or -arm64   a static program for this machine's processor
#   dockercache.cdx.json                what it is made of (CycloneDX), if cargo-cyclonedx is there
#   SHA256SUMS                          the sums of all programs in the directory
#   orb.yml                             the packed orb, with these sums in it
#
# Programs for other processors are made on machines that have them, or fetched from there: what
# lies in the directory already is kept and summed up. The same sources and the same version of
# Rust give the same bytes, in any directory and at any time.
#
# Environment:
#   TARGET    the Rust target (the host's own)
set -euo pipefail
shopt -s inherit_errexit

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
dist=$(realpath --canonicalize-missing "${1:-$here/dist}")
cd "$here"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=${TARGET:-$(rustc --version --verbose | sed -n 's/^host: //p')}
case $target in
  x86_64-*-linux-*) name=dockercache-linux-amd64 ;;
  aarch64-*-linux-*) name=dockercache-linux-arm64 ;;
  *) echo "release.sh: no release is made for $target" >&2 && exit 2 ;;
esac
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

# None of this machine's directories may be in the program.
target_dir=$(cargo metadata --no-deps --format-version 1 |
  sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
cargo_home=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
flags=(
  -C target-feature=+crt-static
  --remap-path-prefix "$here=/dockercache"
  --remap-path-prefix "$target_dir=/target"
  --remap-path-prefix "$cargo_home=/cargo"
  --remap-path-prefix "$sysroot=/rust"
)
RUSTFLAGS="${flags[*]}"
CFLAGS="-ffile-prefix-map=$cargo_home=/cargo -g0"
export RUSTFLAGS CFLAGS
cargo build --release --locked --target "$target"

mkdir -p "$dist"
install -m 755 "$target_dir/$target/release/dockercache" "$dist/$name"
[ "$("$dist/$name" --version)" = "dockercache $version" ]
if readelf --program-headers "$dist/$name" | grep -q INTERP; then
  echo "release.sh: $name needs a dynamic loader" >&2
  exit 1
fi
if cargo cyclonedx --version >/dev/null 2>&1; then
  cargo cyclonedx --format json --target "$target" --override-filename dockercache.cdx --quiet
  mv dockercache.cdx.json "$dist/"
fi

(cd "$dist" && sha256sum dockercache-linux-* >SHA256SUMS)

# The orb is packed with the sums of this release, in a copy.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R orb "$work/"
cp "$dist/SHA256SUMS" "$work/orb/scripts/SHA256SUMS"
unset RUSTFLAGS CFLAGS
cargo run --quiet --locked --example pack-orb -- "$work/orb" >"$work/orb.yml"
install -m 644 "$work/orb.yml" "$dist/orb.yml"

cd "$dist"
sha256sum --check --quiet SHA256SUMS
ls -l
cat SHA256SUMS
