#!/usr/bin/env bash
# The dashboard in a real Chromium, by Playwright and axe-core, against a worker with load (tests/browser/README.md):
#
#   scripts/browser.sh              searches among a million jobs, with a first result within a second; three minutes
#   scripts/browser.sh --short      among 20,000, in two minutes: what CI runs
#   scripts/browser.sh --pictures   makes the README's two pictures, and looks at nothing
#
# Services as in scripts/test.sh. Chromium comes from Debian's packages (CHROMIUM names another), Playwright and axe-core
# from npm. Where they can't be had it says so, and succeeds. Pictures of every view stay in tests/browser/out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/borrow.sh
. scripts/lib/stage.sh

arguments=()
export JOBS=${JOBS:-1000000} STRICT=${STRICT:-1}
case ${1:-} in
  # So few jobs would prove nothing, and CI's machines are busy: the time of a search is only told.
  --short) JOBS=20000 STRICT=0 ;;
  --pictures) arguments=(--pictures) ;;
  '') ;;
  *) die "unknown argument $1: only --short and --pictures" ;;
esac

skip() {
  say "skipped: $*"
  exit 0
}

# --- what it needs ------------------------------------------------------------------------------------------------

# Ubuntu's package chromium is only a pointer to a snap, which doesn't run everywhere: so it is asked.
chromium_works() { timeout 60 "$1" --version >/dev/null 2>&1; }
find_chromium() {
  local name
  for name in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome; do
    name=$(command -v "$name") || continue
    if chromium_works "$name"; then
      CHROMIUM=$name
      return 0
    fi
  done
  return 1
}

# Playwright wants Node 20, Debian 12 and Ubuntu 24.04 have 18: then npm brings one, which nobody else meets.
new_enough() { "$1" -e 'process.exit(process.versions.node.split(".")[0] >= 20 ? 0 : 1)' 2>/dev/null; }
find_node() {
  local architecture
  { command -v node >/dev/null && command -v npm >/dev/null; } || apt_install nodejs npm || return 1
  node=node
  if new_enough "$node"; then return 0; fi
  case $(uname -m) in
    x86_64) architecture=x64 ;;
    aarch64) architecture=arm64 ;;
    *) return 1 ;;
  esac
  node=$repo/.local/node/node_modules/node-linux-$architecture/bin/node
  if new_enough "$node"; then return 0; fi
  npm install --silent --no-fund --no-audit --ignore-scripts --no-save --prefix "$repo/.local/node" \
    "node-linux-$architecture@22" && new_enough "$node"
}

find_chromium || { apt_install chromium fonts-dejavu-core && find_chromium; } || skip "Chromium can't be installed here"
export CHROMIUM
find_node || skip "Node 20 can't be installed here"
packages=tests/browser/node_modules
# npm writes this file last; it is as old as what it installed by.
if ! [ "$packages/.package-lock.json" -nt tests/browser/package-lock.json ]; then
  (cd tests/browser && npm ci --silent --no-fund --no-audit --ignore-scripts) || skip "Playwright can't be had here"
fi

# --- and the test -------------------------------------------------------------------------------------------------

build_stage producer
export IMD_BIN=$bin
borrow_services
need_psql
"$node" tests/browser/run.mjs "${arguments[@]}"
