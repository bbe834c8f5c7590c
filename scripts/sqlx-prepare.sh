#!/usr/bin/env bash
# Writes .sqlx/, what the compile-time checked queries know of the database, without sqlx-cli:
#
#   scripts/sqlx-prepare.sh           replaces .sqlx
#   scripts/sqlx-prepare.sh --check   only compares; exits 1 where it isn't fresh
#
# A scratch database gets the migrations; then a check of every target lets sqlx's macros ask it and save the answers.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/borrow.sh

check=false
case ${1:-} in
  --check) check=true ;;
  '') ;;
  *) die "unknown argument $1: only --check" ;;
esac

need_compiler
borrow_services
need_psql

scratch=im_dispatcher_sqlx_$$
scratch_url=$(with_database "$DATABASE_URL" "$scratch")
fresh=$(mktemp -d)

# shellcheck disable=SC2016
at_exit 'rm -rf "$fresh"'
# shellcheck disable=SC2016
at_exit 'sql "DROP DATABASE IF EXISTS $scratch"'

sql "CREATE DATABASE $scratch"
for migration in migrations/*.up.sql; do
  psql_on "$scratch_url" -f "$migration" >/dev/null || die "$migration doesn't apply"
done

# Cargo doesn't know that the macros read a database: whatever holds one is checked anew.
{ grep -rlE 'query[a-z_]*!' --include='*.rs' src tests benches examples 2>/dev/null || true; } | xargs touch src/lib.rs
# The mode is ours to set: .cargo/config.toml says offline.
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$fresh DATABASE_URL=$scratch_url \
  cargo check --quiet --all-targets --all-features

mkdir -p .sqlx
if diff -rq .sqlx "$fresh"; then
  say ".sqlx is fresh: $(find "$fresh" -name 'query-*.json' | wc -l) queries"
elif $check; then
  die ".sqlx isn't fresh: run scripts/sqlx-prepare.sh and commit what it writes"
else
  rm -rf .sqlx
  cp -r "$fresh" .sqlx
  chmod 755 .sqlx
  say ".sqlx written: $(find .sqlx -name 'query-*.json' | wc -l) queries"
fi
