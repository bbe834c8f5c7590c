#!/usr/bin/env bash
# The producers of examples/producers, each in its language against a real RabbitMQ, a worker and the simulated IM API:
#
#   scripts/producers.sh [--require] [LANG…]      python node php go java rust; all unless some are named
#
# A language whose toolchain and client library can't be had (Debian packages; pika and amqplib from PyPI and npm) is
# skipped with a sentence, or is a failure with --require. Prints a table; exit 0 only if everything that ran was right.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/borrow.sh
. scripts/lib/stage.sh

languages=(python node php go java rust)
require=false
if [ "${1:-}" = --require ]; then
  require=true
  shift
fi
if [ $# -gt 0 ]; then
  for language in "$@"; do
    case " ${languages[*]} " in *" $language "*) ;; *) die "no producer in $language: ${languages[*]}" ;; esac
  done
  languages=("$@")
fi

examples=(producer)
case " ${languages[*]} " in *' rust '*) examples+=(publish) ;; esac
build_stage "${examples[@]}"
borrow_services
need_psql
passed=false
work=$repo/.local/producers-$$
set_stage producers
start_simulator
start_worker

# --- the languages: have_LANG installs what is needed, run_LANG publishes -------------------------------------------

have() { command -v "$1" >/dev/null; }

# A folder with a copy of a producer, to install its libraries in.
copy_of() {
  cp -r "examples/producers/$1" "$work/$1"
  printf '%s\n' "$work/$1"
}

have_python() {
  local folder
  folder=$(copy_of python)
  have python3 || apt_install python3 || return 1
  python3 -c 'import pika' 2>/dev/null && return 0
  { python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip; } &&
    python3 -m pip install --quiet --no-input --disable-pip-version-check --target "$folder/lib" \
      -r "$folder/requirements.txt" && return 0
  # Debian's own goes with Debian's own interpreter.
  apt_install python3-pika && /usr/bin/python3 -c 'import pika'
}
run_python() {
  local python=python3
  if ! PYTHONPATH=$work/python/lib python3 -c 'import pika' 2>/dev/null; then python=/usr/bin/python3; fi
  PYTHONPATH=$work/python/lib "$python" "$work/python/publish.py"
}

have_node() {
  local folder
  folder=$(copy_of node)
  { have node && have npm; } || apt_install nodejs npm || return 1
  (cd "$folder" && npm install --silent --no-fund --no-audit --ignore-scripts)
}
run_node() { node "$work/node/publish.mjs"; }

have_php() {
  copy_of php >/dev/null
  { have php && [ -r /usr/share/php/PhpAmqpLib/autoload.php ]; } || apt_install php-cli php-amqplib
}
run_php() { php "$work/php/publish.php"; }

have_go() {
  local folder
  folder=$(copy_of go)
  have go || apt_install golang-go || return 1
  # The module, where a module proxy can be reached; else Debian's package, which is a GOPATH of its own.
  (cd "$folder" && timeout 60 go build -o publish .) && return 0
  { [ -d /usr/share/gocode/src/github.com/rabbitmq/amqp091-go ] || apt_install golang-github-rabbitmq-amqp091-go-dev; } &&
    (cd "$folder" && GO111MODULE=off GOPATH=/usr/share/gocode go build -o publish .)
}
run_go() { "$work/go/publish"; }

java_path=/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar:/usr/share/java/slf4j-nop.jar
have_java() {
  copy_of java >/dev/null
  have javac || apt_install default-jdk-headless || return 1
  [ -r "${java_path%%:*}" ] || apt_install librabbitmq-client-java libslf4j-java || return 1
  javac -Xlint:all -Werror -cp "$java_path" -d "$work/java" "$work/java/Publish.java"
}
run_java() { java -cp "$work/java:$java_path" Publish; }

have_rust() { copy_of rust >/dev/null; }
run_rust() { "$bin/examples/publish"; }

# --- and the table --------------------------------------------------------------------------------------------------

rows=()
right=true
row() { rows+=("$(printf '%-8s %-8s %s' "$1" "$2" "$3")"); }
for language in "${languages[@]}"; do
  say "--- $language"
  if ! "have_$language" >"$work/$language.log" 2>&1; then
    tail -n 5 "$work/$language.log" >&2
    row "$language" skipped "its toolchain or its client library can't be installed here"
    if $require; then right=false; fi
    continue
  fi
  before=$(request "$sim" GET /_sim/report '' | grep -o '"delivered":[0-9]*')
  if ! output=$("run_$language" 2>&1); then
    printf '%s\n' "$output" >&2
    row "$language" WRONG "exit code is not 0"
    right=false
    continue
  fi
  printf '%s\n' "$output"
  after=$(request "$sim" GET /_sim/report '' | grep -o '"delivered":[0-9]*')
  id=$(sed -n 's/^published //p' <<<"$output")
  if [ "${after#*:}" = $((${before#*:} + 1)) ] && [ "$(sql "SELECT count(*) FROM messages WHERE job_id = '$id'
      AND msg_key IS NOT NULL")" = 1 ] && grep -q "im.message.sent.*$id\|$id.*im.message.sent" <<<"$output"; then
    row "$language" ok "published, confirmed, sent, and its event read back"
  else
    row "$language" WRONG "the service or the records don't have its message once"
    right=false
  fi
done
printf '\n'
printf '%s\n' "${rows[@]}"
$right || die "a producer is wrong, see above"
# shellcheck disable=SC2034
passed=true
