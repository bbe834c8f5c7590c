#!/usr/bin/env bash
# Postgres and RabbitMQ for tests and the demo.
#
#   services.sh up        starts what isn't given, and waits until both answer; again: does nothing
#   services.sh env       prints `export DATABASE_URL=… AMQP_URL=…` lines: eval "$(scripts/services.sh env)"
#   services.sh down      ends what `up` started, and deletes its data
#   services.sh status    says what is there
#   services.sh kill-broker | start-broker | restart-broker              SIGKILL, and start on the same data
#   services.sh stop-postgres [fast|immediate] | start-postgres | restart-postgres [fast|immediate]
#   services.sh psql ARGS… | rabbitmqctl ARGS…                           on the private instances
#   services.sh nodes     prints number, node name, port, distribution port and port mapper's port of each RabbitMQ node
#
# IMD_BROKERS=3 before `up`: three RabbitMQ nodes, which are no cluster yet. IMD_NODE=2: the commands that are about a
# broker mean the second.
#
# Where DATABASE_URL or AMQP_URL is set, that service is used as it is, and never stopped. What isn't given is started
# as a private instance from Debian's or Ubuntu's packages (installed by apt-get where they are missing and we are root
# or may use sudo), else by a Docker engine with docker-compose.yml. Private instances listen on loopback only, on ports
# that were free, under $IMD_STATE (default: .local here); several can run side by side, each in a folder of
# its own.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/postgres.sh
. scripts/lib/rabbitmq.sh

state=${IMD_STATE:-$repo/.local}
case $state in /*) ;; *) state=$PWD/$state ;; esac
umask 022
mkdir -p "$state/services"
state=$(cd "$state/services" && pwd)

# Where the data is. Usually the state folder; but the servers run as accounts of their own when we are root, and those
# can't reach a checkout below /root.
data=$state
if is_root && ! setpriv --reuid=nobody --regid=nogroup --clear-groups test -x "$state" 2>/dev/null; then
  data=/var/tmp/im-dispatcher-$(printf '%s' "$state" | cksum | cut -d ' ' -f 1)
fi
pg=$data/postgres
mq=$data/rabbitmq
node=$mq
if [ "${IMD_NODE:-1}" != 1 ]; then node=$mq-$IMD_NODE; fi
docker=$state/docker

# One command at a time for each state folder.
exec 9>"$state/lock"
flock -w 300 9 || die "another services.sh works on $state"

private_postgres() { alive "$pg/pid"; }
private_rabbitmq() { alive "$mq/pid"; }
# The folders of the RabbitMQ nodes that are here.
rabbitmq_nodes() { find "$data" -maxdepth 1 -type d \( -name rabbitmq -o -name 'rabbitmq-[0-9]*' \) | sort; }
# Their URLs, with commas between.
private_amqp_url() { rabbitmq_nodes | sed 's|$|/url|' | xargs cat | paste -s -d ,; }

compose() {
  local project
  project=im-dispatcher-$(printf '%s' "$state" | cksum | cut -d ' ' -f 1)
  if docker compose version >/dev/null 2>&1; then
    docker compose -p "$project" -f "$repo/docker-compose.yml" "$@"
  else
    docker-compose -p "$project" -f "$repo/docker-compose.yml" "$@"
  fi
}

docker_engine() {
  command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1 &&
    { docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null; }
}

# Prints the URL of a service: the given one, else the private one; fails where there is neither.
database_url() {
  if [ -n "${DATABASE_URL:-}" ]; then
    printf '%s\n' "$DATABASE_URL"
  elif private_postgres; then
    cat "$pg/url"
  else
    cat "$docker/database_url" 2>/dev/null
  fi
}
amqp_url() {
  if [ -n "${AMQP_URL:-}" ]; then
    printf '%s\n' "$AMQP_URL"
  elif private_rabbitmq; then
    private_amqp_url
  else
    cat "$docker/amqp_url" 2>/dev/null
  fi
}

# Whether the service behind a URL answers in its own protocol (over TLS: whether the port is open).
database_answers() {
  if command -v psql >/dev/null; then postgres_answers "$1"; else address_answers "$1" 5432 open; fi
}
broker_answers() {
  case $1 in
    amqps://*) address_answers "$1" 5671 open ;;
    *) address_answers "$1" 5672 amqp ;;
  esac
}
# address_answers URL DEFAULT_PORT open|amqp
address_answers() {
  local address host port
  address=${1#*://}
  address=${address%%[/?]*}
  address=${address##*@}
  host=${address%:*}
  port=${address##*:}
  if [ "$host" = "$address" ]; then port=$2; fi
  if [ "$3" = amqp ]; then
    amqp_answers "$host" "$port"
  else
    (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null
  fi
}

# Never prints a URL: it holds a password.
await_given() {
  if [ -n "${DATABASE_URL:-}" ]; then
    wait_until 30 database_answers "$DATABASE_URL" ||
      die "DATABASE_URL is set, but no Postgres answers there: start it, or unset DATABASE_URL for a private one"
  fi
  if [ -n "${AMQP_URL:-}" ]; then
    wait_until 30 broker_answers "$AMQP_URL" ||
      die "AMQP_URL is set, but no RabbitMQ answers there: start it, or unset AMQP_URL for a private one"
  fi
}

remove_postgres() {
  if alive "$pg/pid"; then postgres_stop "$pg" immediate; fi
  rm -rf "$pg"
}
# remove_rabbitmq DIR
remove_rabbitmq() {
  if alive "$1/pid"; then rabbitmq_kill "$1"; fi
  if alive "$1/epmd.pid"; then rabbitmq_end_epmd "$1"; fi
  rm -rf "$1"
}
remove_brokers() {
  local dir
  for dir in $(rabbitmq_nodes); do remove_rabbitmq "$dir"; done
}

# start_private KIND DIR: creates and starts; another port, and all anew, where the start failed.
start_private() {
  local kind=$1 dir=$2
  # Told to end, finish the step at hand first, so that nothing is left behind it.
  trap 'exit 143' TERM
  for attempt in 1 2 3; do
    "remove_$kind" "$dir"
    if "${kind}_create" "$dir" && { [ "$kind" = postgres ] || rabbitmq_configure "$dir"; } &&
      "${kind}_launch" "$dir" && "${kind}_await" "$dir"; then
      return 0
    fi
    say "$kind did not start (attempt $attempt of 3); the end of its log:"
    tail -n 20 "$dir/log" >&2 || true
  done
  "remove_$kind" "$dir"
  return 1
}

up_private() {
  local jobs=() failed=0 job n
  mkdir -p "$data"
  # A folder in /var/tmp that somebody else made is none of ours.
  [ -O "$data" ] || die "$data belongs to another account"
  chmod 0711 "$data"
  abandon() {
    trap '' INT TERM HUP
    for job in "${jobs[@]}"; do kill "$job" 2>/dev/null || true; done
    wait
    if $want_postgres; then remove_postgres; fi
    if $want_rabbitmq; then remove_brokers; fi
  }
  trap 'abandon; exit 130' INT TERM HUP
  if $want_postgres; then (start_private postgres "$pg") & jobs+=($!); fi
  if $want_rabbitmq; then
    if [ "${IMD_BROKERS:-1}" -gt 1 ]; then rabbitmq_secret=$(random_secret); fi
    (start_private rabbitmq "$mq") & jobs+=($!)
    for ((n = 2; n <= ${IMD_BROKERS:-1}; n++)); do
      (start_private rabbitmq "$mq-$n") & jobs+=($!)
    done
  fi
  for job in "${jobs[@]}"; do wait "$job" || failed=1; done
  if [ $failed -ne 0 ]; then
    abandon
    die "the private services did not start"
  fi
  trap - INT TERM HUP
}

up_docker() {
  local wanted=() password
  if $want_postgres; then wanted+=(postgres); fi
  if $want_rabbitmq; then wanted+=(rabbitmq); fi
  mkdir -p "$docker"
  password=$(random_secret)
  (
    umask 077
    free_port >"$docker/postgres_port"
    free_port >"$docker/rabbitmq_port"
    cat >"$docker/environment" <<ENV
export POSTGRES_PORT=$(cat "$docker/postgres_port") POSTGRES_PASSWORD=$password
export RABBITMQ_PORT=$(cat "$docker/rabbitmq_port") RABBITMQ_PASSWORD=$password
ENV
    if $want_postgres; then
      printf 'postgres://im:%s@127.0.0.1:%s/im\n' "$password" "$(cat "$docker/postgres_port")" >"$docker/database_url"
    fi
    if $want_rabbitmq; then
      printf 'amqp://im:%s@127.0.0.1:%s/%%2f\n' "$password" "$(cat "$docker/rabbitmq_port")" >"$docker/amqp_url"
    fi
  )
  . "$docker/environment"
  if ! compose up -d "${wanted[@]}" >&2 ||
    { $want_postgres && ! wait_until 120 database_answers "$(cat "$docker/database_url")"; } ||
    { $want_rabbitmq && ! wait_until 120 broker_answers "$(cat "$docker/amqp_url")"; }; then
    down_docker
    die "docker compose did not bring the services up"
  fi
}

down_docker() {
  [ -d "$docker" ] || return 0
  . "$docker/environment"
  compose down -v --remove-orphans >&2
  rm -rf "$docker"
}

up() {
  await_given
  want_postgres=false want_rabbitmq=false
  # Of an `up` that was killed, or of somebody's start-broker: alive, but perhaps not there yet.
  if private_postgres; then postgres_await "$pg" || die "the private Postgres doesn't answer; see $pg/log"; fi
  if private_rabbitmq; then rabbitmq_await "$mq" || die "the private RabbitMQ doesn't answer; see $mq/log"; fi
  if [ -z "${DATABASE_URL:-}" ] && ! private_postgres && [ ! -e "$docker/database_url" ]; then want_postgres=true; fi
  if [ -z "${AMQP_URL:-}" ] && ! private_rabbitmq && [ ! -e "$docker/amqp_url" ]; then want_rabbitmq=true; fi
  if $want_postgres || $want_rabbitmq; then
    local missing=()
    if $want_postgres && ! postgres_installed; then missing+=(postgresql); fi
    if $want_rabbitmq && ! rabbitmq_installed; then missing+=(rabbitmq-server); fi
    if [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"; then
      up_private
    elif docker_engine; then
      up_docker
    else
      die "no way to start Postgres and RabbitMQ: apt-get install postgresql rabbitmq-server (as root or with sudo)," \
        "start a Docker engine, or set DATABASE_URL and AMQP_URL"
    fi
  fi
  status
}

describe() {
  local name=$1 given=$2 private=$3
  if [ -n "$given" ]; then
    say "$name: given by the environment"
  elif [ -e "$docker/${4}" ]; then
    say "$name: in a container"
  elif alive "$private/pid"; then
    say "$name: private, port $(cat "$private/port"), data and log in $private"
  else
    say "$name: not running"
    return 1
  fi
}

status() {
  local failed=0
  describe Postgres "${DATABASE_URL:-}" "$pg" database_url || failed=1
  describe RabbitMQ "${AMQP_URL:-}" "$mq" amqp_url || failed=1
  return $failed
}

print_env() {
  local database amqp
  database=$(database_url) || die "no Postgres: run scripts/services.sh up first, or set DATABASE_URL"
  amqp=$(amqp_url) || die "no RabbitMQ: run scripts/services.sh up first, or set AMQP_URL"
  printf 'export DATABASE_URL=%q\nexport AMQP_URL=%q\n' "$database" "$amqp"
  # Tests that kill the broker or the database do it through this script, and only where the instances are private.
  if private_postgres && private_rabbitmq && [ "$database" = "$(cat "$pg/url")" ] && [ "$amqp" = "$(private_amqp_url)" ]; then
    printf 'export IMD_STATE=%q\nexport IMD_PRIVATE_SERVICES=1\n' "${state%/services}"
  fi
}

down() {
  remove_brokers
  remove_postgres
  down_docker
  if [ "$data" != "$state" ]; then rmdir "$data" 2>/dev/null || true; fi
  # The lock stays: removing a lock file under those who wait for it would let two in.
}

need_private() { [ -d "$1" ] || die "no private $2 here ($1): only what services.sh started can be stopped"; }

start_broker() {
  need_private "$node" RabbitMQ
  if alive "$node/pid"; then return 0; fi
  if ! rabbitmq_launch "$node" || ! rabbitmq_await "$node"; then die "RabbitMQ did not start again; see $node/log"; fi
}
start_postgres() {
  need_private "$pg" Postgres
  if alive "$pg/pid"; then return 0; fi
  if ! postgres_launch "$pg" || ! postgres_await "$pg"; then die "Postgres did not start again; see $pg/log"; fi
}

verb=${1:-}
shift || true
case $verb in
  up) up ;;
  env) print_env ;;
  down) down ;;
  status) status ;;
  kill-broker) need_private "$node" RabbitMQ && rabbitmq_kill "$node" ;;
  start-broker) start_broker ;;
  restart-broker) need_private "$node" RabbitMQ && rabbitmq_kill "$node" && start_broker ;;
  stop-postgres) need_private "$pg" Postgres && postgres_stop "$pg" "${1:-fast}" ;;
  start-postgres) start_postgres ;;
  restart-postgres) need_private "$pg" Postgres && postgres_stop "$pg" "${1:-fast}" && start_postgres ;;
  psql)
    need_private "$pg" Postgres
    exec 9>&-
    exec psql -X -d "$(cat "$pg/url")" "$@"
    ;;
  rabbitmqctl)
    need_private "$node" RabbitMQ
    exec 9>&-
    rabbitmq_run "$node" "$rabbitmq_bin/rabbitmqctl" "$@"
    ;;
  nodes)
    number=0
    for dir in $(rabbitmq_nodes); do
      number=$((number + 1))
      port=$(cat "$dir/port")
      printf '%s im-%s@localhost %s %s %s\n' "$number" "$port" "$port" "$(cat "$dir/dist_port")" "$(cat "$dir/epmd_port")"
    done
    ;;
  *)
    sed -n '4,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
