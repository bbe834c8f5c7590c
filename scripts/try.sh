#!/usr/bin/env bash
# A place to try things: RabbitMQ, Postgres, the simulated IM API and a worker, until Ctrl-C.
#
#   scripts/try.sh          in one terminal; prints the dashboard's address
#   . .local/try.env        in others: then im-dispatcher, and the programs in examples/producers, find it
#
# Services as in scripts/test.sh: given URLs, or what scripts/services.sh up started, or private ones for this run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/borrow.sh
. scripts/lib/stage.sh

build_stage producer
borrow_services
need_psql
# shellcheck disable=SC2034
passed=true
work=$repo/.local/try-$$
set_stage "try"
start_simulator
start_worker

names=(AMQP_URL DATABASE_URL IM_DISPATCHER_NAMESPACE IM_DISPATCHER_HTTP_ADDR IM_BASE_URL IM_SDK_APP_ID IM_ADMIN_ACCOUNT
  IM_SECRET_KEY)
at_exit 'rm -f .local/try.env'
{
  for name in "${names[@]}"; do printf 'export %s=%q\n' "$name" "${!name}"; done
  # shellcheck disable=SC2016
  printf 'export PATH=%q:$PATH\n' "$bin"
} >.local/try.env

say ""
say "Ready until Ctrl-C. The dashboard: http://127.0.0.1:$http/"
say "In another terminal, in this folder:"
say "  . .local/try.env"
say "  im-dispatcher submit examples/demo/jobs.ndjson"
say "  python3 examples/producers/python/publish.py    (with Debian's python3-pika)"
say "The other languages: examples/producers/README.md"
trap 'exit 0' INT
wait "$worker_pid" || true
die "the worker ended by itself; see $work/worker.log"
