#!/usr/bin/env bash
# Builds a static binary, which runs on any Linux of this architecture, Alpine included:
#
#   ./build-static.sh      prints the binary's path
#
# Needs a Rust toolchain and a C compiler, nothing else.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

target=$(rustc -vV | sed -n 's/^host: //p')
# With --target, the flag applies to the program alone: procedural macros can't be static.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
  cargo build --release --locked --target "$target" >&2
binary=$(cargo metadata --no-deps --format-version 1 |
  sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/$target/release/dockercache
# The loader has nothing to load.
if ldd "$binary" 2>/dev/null | grep -q '=>'; then
  echo "build-static.sh: $binary is not static" >&2
  exit 1
fi
echo "$binary"
