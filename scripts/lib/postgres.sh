# shellcheck shell=bash
# A private Postgres from the distribution's package, whatever its version. Sourced by services.sh, after common.sh.
# Its folder: data/, log, port, url, pid, prefix (how to become its user).

# The newest packaged server's programs.
postgres_bin() {
  local newest
  newest=$(find /usr/lib/postgresql/*/bin -maxdepth 1 -name postgres 2>/dev/null | sort -V | tail -n 1)
  [ -n "$newest" ] && dirname "$newest"
}

postgres_installed() { [ -n "$(postgres_bin)" ] && command -v psql >/dev/null; }

# The server refuses to run as root.
postgres_user() { if is_root; then echo postgres; else id -un; fi; }

as_postgres() {
  # psql and initdb would take PGHOST and its like from the environment for theirs.
  local clean=(env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE -u PGPASSWORD -u PGDATA)
  if is_root; then
    "${clean[@]}" setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
  else
    "${clean[@]}" "$@"
  fi
}

# postgres_create DIR: a new cluster. Passwords even on loopback: with "trust" every account of a shared machine
# would be superuser here, and thereby able to run programs as us.
postgres_create() {
  local dir=$1 password
  password=$(random_secret)
  mkdir -m 0700 "$dir"
  (
    umask 077
    printf '%s\n' "$password" >"$dir/password"
    : >"$dir/log"
  )
  if is_root; then chown -R postgres: "$dir"; fi
  as_postgres "$(postgres_bin)/initdb" -D "$dir/data" -U postgres --pwfile="$dir/password" --auth=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 >>"$dir/log" 2>&1 </dev/null
  # Durability is what is tested, so fsync and synchronous_commit stay on. 400 connections: many tests at once, each
  # with workers of 6. Replies of the planner and of autovacuum are as in production.
  cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 400
fsync = on
synchronous_commit = on
shared_buffers = 128MB
max_wal_size = 2GB
timezone = 'UTC'
log_timezone = 'UTC'
CONF
}

# postgres_launch DIR: starts the server on the port that is noted, or on a new one.
postgres_launch() {
  local dir=$1 port
  [ -s "$dir/port" ] || free_port >"$dir/port"
  port=$(cat "$dir/port")
  printf 'postgres://postgres:%s@127.0.0.1:%s/postgres\n' "$(cat "$dir/password")" "$port" >"$dir/url"
  if is_root; then
    start_daemon "$dir/pid" "$dir/log" setpriv --reuid=postgres --regid=postgres --init-groups -- \
      "$(postgres_bin)/postgres" -D "$dir/data" -p "$port"
  else
    start_daemon "$dir/pid" "$dir/log" "$(postgres_bin)/postgres" -D "$dir/data" -p "$port"
  fi
}

# postgres_answers URL
postgres_answers() {
  PGCONNECT_TIMEOUT=5 psql -X -q -At -d "$1" -c 'SELECT 1' </dev/null >/dev/null 2>&1
}

# postgres_await DIR: until it answers a query. Recovery after an immediate stop is included in the minute.
postgres_await() {
  local dir=$1 url deadline=$((SECONDS + 60))
  url=$(cat "$dir/url")
  until postgres_answers "$url"; do
    alive "$dir/pid" && [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# postgres_stop DIR fast|immediate: SIGINT ends sessions and writes a checkpoint, SIGQUIT is a crash.
postgres_stop() {
  local dir=$1
  case $2 in
    fast) signal "$dir/pid" INT ;;
    immediate) signal "$dir/pid" QUIT ;;
    *) die "stop Postgres fast or immediate, not $2" ;;
  esac
  wait_until 30 gone "$dir/pid" || signal_group "$dir/pid" KILL
  wait_until 5 gone "$dir/pid" || die "Postgres ($dir) doesn't end"
}
