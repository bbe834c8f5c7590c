#!/usr/bin/env bash
# Benchmarks: scripts/bench.sh PART [ARGUMENT]...
# Each part is a file in scripts/bench/ with a function `bench`: it prints a table and keeps the figures as JSON in
# target/bench/PART.json.
set -euo pipefail
. "$(dirname "$0")/lib/common.sh"

part=${1:-}
parts=$(cd "$repo/scripts/bench" && printf '%s ' *.sh | sed 's/\.sh / /g')
if [ -z "$part" ] || [ ! -f "$repo/scripts/bench/$part.sh" ]; then die "use one of these parts: $parts"; fi
shift

# The machine, as one JSON object for the figures' file.
machine() {
  printf '{"cores": %s, "cpu": "%s", "kernel": "%s", "rustc": "%s"}' "$(nproc)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(uname -sr)" "$(rustc --version)"
}

mkdir -p "$repo/target/bench"
# shellcheck source=/dev/null
. "$repo/scripts/bench/$part.sh"
bench "$@"
