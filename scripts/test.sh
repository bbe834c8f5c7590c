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
# Built before the services start: a compile error is found without them.
# With every feature: the fault points of the crash tests exist only where they are asked for.
cargo test --no-run --all-features "$@"
borrow_services
# Most of an integration test's time is waiting: twice as many side by side as there are cores.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
cargo test --all-features "$@"
