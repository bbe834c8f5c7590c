# shellcheck shell=bash
# What the parts of the benchmark share: the release build, private services of its own, and the driver
# (benches/dispatch). Sourced by scripts/bench/*.sh, after common.sh.

# bench_services: starts a private Postgres and RabbitMQ for this run and ends them with it.
bench_services() {
  local state
  [ -z "${bench_state:-}" ] || return 0
  state=$(mktemp -d /tmp/im-dispatcher-bench.XXXXXX)
  chmod 0755 "$state"
  bench_state=$state
  at_exit "IMD_STATE='$state' '$repo/scripts/services.sh' down >/dev/null 2>&1; rm -rf '$state'"
  env -u DATABASE_URL -u AMQP_URL IMD_STATE="$state" "$repo/scripts/services.sh" up >&2
  eval "$(env -u DATABASE_URL -u AMQP_URL IMD_STATE="$state" "$repo/scripts/services.sh" env)"
}

# bench_broker FIELD: the private broker's process, or its version.
bench_broker() {
  case $1 in
    pid) cut -d ' ' -f 1 "$bench_state/services/rabbitmq/pid" ;;
    version) find /usr/lib/rabbitmq/lib -maxdepth 1 -name 'rabbitmq_server-*' 2>/dev/null | sed 's/.*-//' | head -n 1 ;;
  esac
}

# bench_drive PART [ROUNDS] [ARGUMENT]...: builds, starts what is needed, measures; figures in target/bench/PART.json.
bench_drive() {
  local part=$1 rounds=${2:-5}
  shift $(($# > 1 ? 2 : 1))
  cargo build --quiet --release --manifest-path "$repo/Cargo.toml" --bin im-dispatcher --example dispatch-bench \
    --example reference
  bench_services
  "$repo/target/release/examples/dispatch-bench" "$part" --rounds "$rounds" \
    --worker "$repo/target/release/im-dispatcher" --reference "$repo/target/release/examples/reference" \
    --broker-pid "$(bench_broker pid)" --broker-version "$(bench_broker version)" \
    --machine "$(machine)" --json "$repo/target/bench/$part.json" "$@"
  say "figures: target/bench/$part.json"
}
