# Sourced by the scripts that start engines and compile: they need root and Rust. `die` says why
# they can't go on.
# shellcheck shell=bash
[ "$(id -u)" = 0 ] || die "needs root: it installs and starts Docker engines"

# `sudo` may hide the Rust toolchain of the user who called it.
if ! command -v cargo >/dev/null; then
  caller=$(getent passwd "${SUDO_USER:-root}" | cut -d : -f 6)
  PATH=$PATH:$caller/.cargo/bin
  command -v cargo >/dev/null || die "needs Rust: see https://rustup.rs"
  export CARGO_HOME=${CARGO_HOME:-$caller/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$caller/.rustup}
fi
