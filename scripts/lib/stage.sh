# shellcheck shell=bash
# A stage for a script: a database and a namespace of its own, the simulated IM API, a worker; all of it gone with the
# script. Sourced, after common.sh and borrow.sh. Wants build_stage to be called before the rest, and $work (for logs).

# build_stage EXAMPLE...: $bin is the folder of the program, with these examples in examples/. Where IMD_BIN names such a
# folder nothing is built.
build_stage() {
  local name quiet=(--quiet)
  if [ -n "${IMD_BIN:-}" ]; then
    for name in im-dispatcher "${@/#/examples/}"; do
      [ -x "$IMD_BIN/$name" ] || die "IMD_BIN is set, but there is no $IMD_BIN/$name"
    done
    bin=$(cd "$IMD_BIN" && pwd)
  else
    need_compiler
    # A first build takes some minutes: whoever waits for it sees how far it is.
    if [ -t 2 ]; then quiet=(); fi
    cargo build "${quiet[@]}" --bin im-dispatcher "${@/#/--example=}"
    bin=$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)
  fi
}

dispatcher() { "$bin/im-dispatcher" "$@"; }
producer() { "$bin/examples/producer" "$@"; }

# set_stage PREFIX: DATABASE_URL and IM_DISPATCHER_NAMESPACE are this run's own, also on services that are given. The logs
# go with it, unless $passed is false at the end.
set_stage() {
  local name=$1_$$_$RANDOM
  mkdir -p "$work"
  stage_database=$DATABASE_URL
  stage_name=$name
  psql_on "$stage_database" -c "CREATE DATABASE $name"
  DATABASE_URL=$(with_database "$stage_database" "$name")
  export DATABASE_URL IM_DISPATCHER_NAMESPACE=$name
  at_exit clear_stage
}
clear_stage() {
  producer --delete-namespace || true
  psql_on "$stage_database" -c "DROP DATABASE IF EXISTS $stage_name WITH (FORCE)"
  if $passed; then rm -rf "$work"; else say "logs are kept in $work"; fi
}

# request PORT METHOD PATH [BODY]: prints the answer's body; fails unless it is a 200.
request() {
  local status line
  exec 4<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf '%s %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
    "$2" "$3" "$1" "${#4}" "${4:-}" >&4
  read -r _ status _ <&4 || status=none
  while read -r line <&4 && [ "${line%$'\r'}" != '' ]; do :; done
  cat <&4
  exec 4>&-
  [ "$status" = 200 ]
}

# end NAME: SIGTERM, and SIGKILL to what doesn't heed it.
end() {
  signal "$work/$1.pid" TERM
  if ! wait_until 40 gone "$work/$1.pid"; then
    say "$1 doesn't end; killed"
    signal "$work/$1.pid" KILL
    return 1
  fi
}

# start_simulator: the IM API at port $sim, and the settings of the app that it knows.
start_simulator() {
  sim=$(free_port)
  export IM_BASE_URL=http://127.0.0.1:$sim IM_SDK_APP_ID=1400000000 IM_ADMIN_ACCOUNT=administrator
  # The public sample key of the service's own documentation: it is the simulator's, too.
  export IM_SECRET_KEY=5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e
  start_daemon "$work/simulator.pid" "$work/simulator.log" \
    "$bin/im-dispatcher" simulate --listen "127.0.0.1:$sim"
  at_exit 'end simulator'
  wait_until 20 request "$sim" GET /_sim/report '' || die "the simulator doesn't answer; see $work/simulator.log"
}

# start_worker: a worker with its HTTP server at port $http, ready; its process is $worker_pid.
start_worker() {
  http=$(free_port)
  export IM_DISPATCHER_HTTP_ADDR=127.0.0.1:$http
  start_daemon "$work/worker.pid" "$work/worker.log" "$bin/im-dispatcher" worker
  # shellcheck disable=SC2034
  worker_pid=$!
  at_exit 'end worker'
  if ! wait_until 60 request "$http" GET /readyz ''; then
    tail -n 20 "$work/worker.log" >&2
    die "the worker isn't ready; see $work/worker.log"
  fi
}
