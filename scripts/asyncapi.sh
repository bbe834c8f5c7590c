#!/usr/bin/env bash
# Validates schemas/asyncapi.yaml by AsyncAPI's own parser, which comes from npm:
#
#   scripts/asyncapi.sh
#
# Where Node or the parser can't be had it says so, and succeeds: tests/jobs/asyncapi.rs holds the document to the code
# without them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

folder=$repo/.local/asyncapi
mkdir -p "$folder"
cp scripts/lib/asyncapi.mjs "$folder/"
if ! { command -v node >/dev/null && command -v npm >/dev/null; } && ! apt_install nodejs npm; then
  say "skipped: Node can't be installed here"
  exit 0
fi
# A major version is pinned: what a later one refuses is no fault of a change here.
if [ ! -d "$folder/node_modules/@asyncapi/parser" ] &&
  ! npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$folder" @asyncapi/parser@3; then
  say "skipped: the parser can't be had here"
  exit 0
fi
node "$folder/asyncapi.mjs" schemas/asyncapi.yaml
