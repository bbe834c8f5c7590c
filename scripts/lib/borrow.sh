# shellcheck shell=bash
# Services for the time of one script. Sourced, after common.sh.

# borrow_services: exports DATABASE_URL and AMQP_URL. Those that are given stay; private ones that somebody brought up
# (scripts/services.sh up) are used and left alone; what is missing is started in a folder of this run's own, so that
# runs don't meet, and ended when the script ends, however it ends.
borrow_services() {
  local exports
  if ! exports=$("$repo/scripts/services.sh" env 2>/dev/null); then
    export IMD_STATE=$repo/.local/run-$$
    at_exit return_services
    "$repo/scripts/services.sh" up
    exports=$("$repo/scripts/services.sh" env)
  fi
  eval "$exports"
}

return_services() {
  IMD_STATE=$repo/.local/run-$$ "$repo/scripts/services.sh" down
  rm -rf "$repo/.local/run-$$"
}

need_psql() {
  command -v psql >/dev/null || apt_install postgresql-client || die "no psql: install postgresql-client"
}

# psql_on URL ARGS...: no startup file, no frills, stops at an error.
psql_on() { psql -X -q -At -v ON_ERROR_STOP=1 -d "$@"; }

# sql STATEMENT: on the database of this run.
sql() { psql_on "$DATABASE_URL" -c "$1"; }

# with_database URL NAME: the same server and account, another database.
with_database() {
  local query='' base=${1%%"?"*} address
  case $1 in *"?"*) query="?${1#*"?"}" ;; esac
  address=${base#*://}
  printf '%s\n' "${base%%://*}://${address%%/*}/$2$query"
}
