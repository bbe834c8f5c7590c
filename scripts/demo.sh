#!/usr/bin/env bash
# Real jobs, from RabbitMQ through the rate budget to the (simulated) IM API and into Postgres, and revoked again:
#
#   scripts/demo.sh                builds, runs, prints what happened, and exits 0 only if every count is right
#   scripts/demo.sh --dashboard    the same, and stays with some load until Ctrl-C: prints the dashboard's address, and opens
#                                  it where there is a desktop
#
# Services as in scripts/test.sh: given URLs, or what scripts/services.sh up started, or private ones for this run. Nothing
# is left running. The jobs are in examples/demo/; the two campaigns are written here.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/borrow.sh
. scripts/lib/stage.sh

stay=false
case ${1:-} in
  --dashboard) stay=true ;;
  '') ;;
  *) die "unknown argument $1: only --dashboard" ;;
esac

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || step() { printf '\n%s\n' "$*"; }

# --- build, services ----------------------------------------------------------------------------------------------

step "Building"
build_stage producer

step "Postgres and RabbitMQ"
borrow_services
need_psql
# shellcheck disable=SC2034
passed=false
work=$repo/.local/demo-$$
set_stage demo

# --- the IM API and a worker --------------------------------------------------------------------------------------

step "The simulated IM API"
start_simulator
# Accounts that begin with "unknown" don't exist. Some calls are throttled, one answer is lost after its message was
# accepted, and one call fails for a moment.
request "$sim" POST /_sim/faults '{"add": ["sendmsg:code:60007=nth:20", "sendmsg:cut_after=nth:60",
  "sendmsg:code:80003=nth:100", "batchsendmsg:code:60007=nth:2", "admin_msgwithdraw:code:60011=nth:500"]}' >/dev/null
say "listening on 127.0.0.1:$sim, with faults: throttled calls, a lost answer, a passing failure"

step "A worker"
start_worker
say "ready: http://127.0.0.1:$http/readyz"

# --- the jobs -----------------------------------------------------------------------------------------------------

campaign=3000 campaign_unknown=60
news=400 news_unknown=8

# recipients COUNT UNKNOWN PREFIX: the unknown ones spread evenly.
recipients() {
  awk -v count="$1" -v unknown="$2" -v prefix="$3" 'BEGIN {
    every = count / unknown
    for (i = 1; i <= count; i++) print (i % every == 0 ? "unknown_" : "") prefix i
  }'
}

step "Jobs: each type, a campaign of $campaign recipients, $news single messages, and some that can't be carried out"
dispatcher submit --lane normal examples/demo/jobs.ndjson
{
  printf '{"type": "batch_send", "id": "demo-sale", "group": "sale", "from": "shop", "message": {"text": "Today only."}, "to": ['
  recipients $campaign $campaign_unknown customer_ | sed 's/.*/"&"/' | paste -sd,
  printf ']}'
} | tr -d '\n' >"$work/sale.ndjson"
dispatcher submit --lane bulk "$work/sale.ndjson"
recipients $news $news_unknown reader_ |
  sed 's/.*/{"type": "send", "id": "demo-news-&", "group": "news", "from": "editor", "to": "&", "message": {"text": "The news."}}/' |
  dispatcher submit --lane normal -
producer --lane normal examples/demo/bad.ndjson
dispatcher submit --lane high examples/demo/revoke-ahead.ndjson

step "Until nothing is pending"
patience=180
dispatcher status --group news --wait --timeout $patience
dispatcher status --group sale --wait --timeout $patience
for job in demo-text demo-elements demo-import demo-read demo-expired demo-nobody demo-undo-ahead; do
  dispatcher status "$job" --wait --timeout $patience >/dev/null
done
# It comes after its revocation.
dispatcher submit --lane normal examples/demo/ahead.ndjson
dispatcher status demo-ahead --wait --timeout $patience >/dev/null

step "Two questions, answered by reply_to"
producer --lane high --replies 2 examples/demo/questions.ndjson | tee "$work/replies.ndjson" | cut -c 1-200

step "Revocations: a job that waits, one message by its key, two recipients, then the whole campaign"
dispatcher revoke --job demo-later --wait --timeout $patience
key=$(sql "SELECT msg_key FROM messages WHERE job_id = 'demo-text'")
dispatcher revoke --from shop --to alice --msg-key "$key" --wait --timeout $patience
dispatcher revoke --job demo-sale --to customer_1 --to customer_2 --wait --timeout $patience
dispatcher revoke --group sale --wait --timeout $patience

# --- what happened ------------------------------------------------------------------------------------------------

right=true
# row WHAT EXPECTED FOUND
row() {
  local mark=ok
  if [ "$2" != "$3" ]; then
    mark=WRONG
    right=false
  fi
  printf '%-52s %8s %8s  %s\n' "$1" "$2" "$3" "$mark"
}

# json DOCUMENT PATH...: the value at a path, as text.
json() {
  local document=$1
  shift
  psql_on "$DATABASE_URL" -v document="$document" -v path="{$(IFS=, && echo "$*")}" \
    <<<"SELECT :'document'::jsonb #>> :'path'::text[]"
}

# job JOB STATE: one that has one state.
job() { row "$1" "$2" "$(json "$(dispatcher status "$1" --json)" state)"; }

# counts TITLE DOCUMENT STATE=NUMBER...
counts() {
  local title=$1 document=$2 pair
  shift 2
  for pair in "$@"; do row "$title: ${pair%=*}" "${pair#*=}" "$(json "$document" recipients "${pair%=*}")"; done
}

step "What happened"
printf '%-52s %8s %8s\n' '' expected found
job demo-text revoked
job demo-elements sent
job demo-import sent
job demo-read 'done'
job demo-expired expired
job demo-nobody failed
job demo-later cancelled
job demo-ahead cancelled
sale=$(dispatcher status --group sale --json)
reached=$((campaign - campaign_unknown))
counts "campaign sale" "$sale" total=$campaign revoked=$reached failed=$campaign_unknown sent=0 pending=0
counts "group news" "$(dispatcher status --group news --json)" \
  total=$news sent=$((news - news_unknown)) failed=$news_unknown pending=0 unknown=0
row "answers by reply_to" 2 "$(wc -l <"$work/replies.ndjson")"

dispatcher dead-letters list --json >"$work/letters.ndjson"
for word in invalid-json invalid-job unknown-app id-conflict; do
  row "dead letters: $word" 1 "$(grep -c "\"$word\"" "$work/letters.ndjson" || true)"
done
row "dead letters in all" 4 "$(wc -l <"$work/letters.ndjson")"

report=$(request "$sim" GET /_sim/report '')
printf '%s\n' "$report" >"$work/report.json"
delivered=$((2 + reached + news - news_unknown))
row "at the service: messages delivered" $delivered "$(json "$report" delivered)"
row "at the service: imported" 1 "$(json "$report" imported)"
row "at the service: revoked" $((1 + reached)) "$(json "$report" revoked)"
row "at the service: bodies that reached someone twice" '[]' "$(json "$report" sent_twice)"
row "at the service: faults that were met" 5 "$(psql_on "$DATABASE_URL" -v document="$report" \
  <<<"SELECT sum((fault->>'fired')::int) FROM jsonb_array_elements(:'document'::jsonb->'faults') AS fault")"

request "$sim" GET "/_sim/messages?limit=100000" '' >"$work/messages.json"
# Every message that the service has, with its key, beside every key on record.
keys=$(
  psql_on "$DATABASE_URL" <<SQL
\set document \`cat '$work/messages.json'\`
WITH service AS (
  SELECT m->>'sender' AS sender, m->>'recipient' AS recipient, m->>'key' AS key
  FROM jsonb_array_elements(:'document'::jsonb) AS m
), record AS (
  SELECT from_account AS sender, to_account AS recipient, msg_key AS key FROM messages WHERE msg_key IS NOT NULL
)
SELECT (SELECT count(*) FROM record) || ' ' || (SELECT count(*) FROM (TABLE service INTERSECT TABLE record) AS both_sides)
SQL
)
row "MsgKeys on record in Postgres, the import's included" $((delivered + 1)) "${keys% *}"
row "MsgKeys on record that are the service's own" $((delivered + 1)) "${keys#* }"

# Not counts of ours, but the clock's: how they come out depends on what else the machine does.
busiest=$(json "$report" apps 1400000000 sendmsg busiest calls_980ms)
throttled=$(json "$report" throttled)
printf '\n%s\n' "sendmsg at the service: at most $busiest calls in any 980 ms, at a limit of 200 a second"
printf '%s\n' "calls that were throttled: $throttled, 3 of them on purpose"

step "Some of the keys"
psql "$DATABASE_URL" -X -q -P pager=off -P footer=off <<'SQL'
SELECT job_id AS job, to_account AS recipient, msg_key, sent_at::timestamp(0), revoked_at::timestamp(0)
FROM (SELECT *, row_number() OVER (PARTITION BY left(job_id, 9) ORDER BY idx, job_id) AS nth
      FROM messages WHERE msg_key IS NOT NULL) AS numbered
WHERE nth <= 4 ORDER BY job_id, idx;
SQL

# keep_busy: something to look at. Each round some single messages, of which one fails, an urgent one, and now and then a batch.
keep_busy() {
  local round
  for ((round = 1; ; round++)); do
    recipients 100 1 "reader_${round}_" |
      sed 's/.*/{"type": "send", "id": "live-&", "group": "live", "from": "editor", "to": "&", "message": {"text": "News."}}/' |
      dispatcher submit --lane normal - >/dev/null 2>&1 || true
    printf '{"type": "send", "id": "live-otp-%d", "to": "user_%d", "message": {"text": "A code."}}\n' $round $round |
      dispatcher submit --lane high - >/dev/null 2>&1 || true
    if ((round % 5 == 1)); then
      {
        printf '{"type": "batch_send", "id": "live-batch-%d", "group": "offers", "from": "shop", "message": {"text": "Offers."}, "to": [' $round
        recipients 400 4 "customer_${round}_" | sed 's/.*/"&"/' | paste -sd,
        printf ']}'
      } | tr -d '\n' | dispatcher submit --lane bulk - >/dev/null 2>&1 || true
    fi
    sleep 2
  done
}

if $stay && $right; then
  step "http://127.0.0.1:$http/"
  say "The worker, the simulator and the services stay until Ctrl-C, with some forty messages a second."
  passed=true
  keep_busy &
  busy_pid=$!
  at_exit "kill $busy_pid 2>/dev/null || true; wait $busy_pid 2>/dev/null || true"
  trap 'exit 0' INT
  if [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ] && command -v xdg-open >/dev/null; then
    xdg-open "http://127.0.0.1:$http/" >/dev/null 2>&1 &
  fi
  wait "$worker_pid" || true
  passed=false
  die "the worker ended by itself; see $work/worker.log"
fi

step "Ending"
end worker
if ! wait "$worker_pid"; then
  say "the worker's exit code is not 0; see $work/worker.log"
  right=false
fi
$right || die "a count is wrong, see above"
passed=true
say "every count is right"
