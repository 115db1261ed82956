#!/usr/bin/env bash
# Puts the sources of SQLite and zstd into vendor/, once. The build itself needs no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ ! -e vendor/.ready ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo vendor --quiet --locked --manifest-path sources/Cargo.toml "$work" >/dev/null
rm -rf vendor
mkdir -p vendor/sqlite
cp "$work"/libsqlite3-sys/sqlite3/sqlite3.[ch] vendor/sqlite/
cp -R "$work/zstd-sys/zstd/lib" vendor/zstd
touch vendor/.ready
