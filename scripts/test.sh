#!/usr/bin/env bash
# Every test, the integration tests against a real RabbitMQ and Postgres included:
#
#   scripts/test.sh [arguments of cargo test]      e.g. scripts/test.sh --test it relay
#
# Services: DATABASE_URL and AMQP_URL where given, else what scripts/services.sh up started, else private ones for the
# time of this run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/borrow.sh

need_compiler
# With the fault points: the crash tests kill workers at named steps. A release build never has them.
# Built before the services start: a compile error is found without them.
cargo test --features fault-points --no-run "$@"
borrow_services
cargo test --features fault-points "$@"
