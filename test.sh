#!/usr/bin/env bash
# Runs every check and every test, on real Docker engines, and does all set-up before:
#
#   sudo ./test.sh
#
# Needs Debian, root and a Rust toolchain. The engines are installed from Debian's packages into
# directories of their own (see tests/engines/engine.sh) while the compiler works; if one of them
# can't be, the tests fail.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

say() {
  printf '\n\033[1m== %s\033[0m\n' "$*"
}

die() {
  echo "test.sh: $*" >&2
  exit 1
}

# shellcheck source=tests/engines/toolchain.sh
. tests/engines/toolchain.sh

say "Installing tools"
packages=()
for tool in cc:gcc cc:libc6-dev shellcheck:shellcheck yamllint:yamllint git:git; do
  command -v "${tool%:*}" >/dev/null || packages+=("${tool#*:}")
done
python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
if [ "${#packages[@]}" != 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
if [ -d orb ] && ! command -v check-jsonschema >/dev/null; then
  # Debian has no package of it.
  tools=${CARGO_TARGET_DIR:-$PWD/target}/tools
  PATH=$tools/bin:$PATH
  if [ ! -x "$tools/bin/check-jsonschema" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check check-jsonschema
  fi
fi
if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
  rustup component add clippy rustfmt
fi

# In a background of its own each: a Debian root is mostly a download.
say "Installing engines, meanwhile checking and compiling"
installing=()
for generation in 20.10 26.1 28.5; do
  tests/engines/engine.sh install "$generation" &
  installing+=($!)
done
for program in azurite config-parser; do
  tests/engines/engine.sh "$program" >/dev/null &
  installing+=($!)
done

cargo fmt --check

# Every file that a shell reads.
scripts=$({ git grep -lIE '^#!.*\b(ba|da)?sh\b' -- . ':!tests/corpus' && git ls-files '*.sh'; } | sort -u)
mapfile -t scripts <<<"$scripts"
shellcheck --external-sources "${scripts[@]}"
yaml=$(git ls-files '*.yml' '*.yaml')
# shellcheck disable=SC2086 # file names without spaces
[ -z "$yaml" ] || yamllint --strict $yaml

cargo clippy --locked --all-targets -- -D warnings
cargo test --locked --no-run

for pid in "${installing[@]}"; do
  wait "$pid" || die "an engine or a server can't be installed: see above"
done

say "Testing"
# An engine serves one test at a time, so most threads wait: for an engine, or for what it does.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}
cargo test --locked --doc
cargo test --locked --lib --bins --tests
