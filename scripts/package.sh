#!/usr/bin/env bash
# Builds the Debian package of this version with cargo-deb (metadata in Cargo.toml, files in deploy/):
#
#   scripts/package.sh             builds it, looks at it with lintian where that is there, and prints its path
#   scripts/package.sh --install   installs lintian, too, where it isn't there
#
# The binary is linked against this machine's glibc: build on the oldest distribution that it is for.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

need_compiler
if ! cargo deb --version >/dev/null 2>&1; then
  say "installing cargo-deb (cargo install)"
  cargo install cargo-deb --locked --debug --quiet --version '^3' || die "cargo-deb can't be installed here"
fi

cargo build --release --locked --bin im-dispatcher
binary=target/release/im-dispatcher
mkdir -p target/package
"$binary" completions bash >target/package/im-dispatcher.bash
"$binary" completions zsh >target/package/_im-dispatcher
"$binary" completions fish >target/package/im-dispatcher.fish
package=$(cargo deb --no-build --quiet | tail -n 1)

if ! command -v lintian >/dev/null && [ "${1:-}" = --install ]; then
  apt_install lintian || say "lintian can't be installed here"
fi
if command -v lintian >/dev/null; then
  lintian --fail-on error "$package" >&2
else
  say "lintian isn't there: the package wasn't looked at"
fi
printf '%s\n' "$package"
