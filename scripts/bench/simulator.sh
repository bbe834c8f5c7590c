# shellcheck shell=bash
# The IM API simulator: how many calls does it answer for a second of CPU, with UserSigs checked and limits off?
# bench.sh simulator [CALLS]: sourced by scripts/bench.sh.
#
# The load generator takes part of the cores, so the figure is calls per CPU second of the simulator's own process. It
# is measured with requests pipelined, which costs the generator least, and one at a time per connection as real clients
# send them, where each call has a read and a write of its own to pay.

bench() {
  local calls=${1:-300000} directory pid url row rows=() threads
  cargo build --quiet --release --manifest-path "$repo/Cargo.toml" --bin im-dispatcher --example simload
  directory=$(mktemp -d)
  at_exit "rm -rf '$directory'"
  at_exit "signal '$directory/pid' TERM"
  printf '%-8s %-12s %-9s %12s %12s %15s\n' threads connections pipeline calls/s CPU-s 'calls/s/core'
  for threads in 1 2; do
    for shape in "16 16" "64 1"; do
      # A fresh one each time: a million kept messages would be another machine.
      rm -f "$directory/url"
      env -u IM_SDK_APP_ID -u IM_ADMIN_ACCOUNT -u IM_SECRET_KEY -u IM_SECRET_KEY_FILE RUST_LOG=warn \
        "$repo/target/release/im-dispatcher" simulate --listen 127.0.0.1:0 --url-file "$directory/url" --report-file "$directory/report" \
        --threads "$threads" --rate-limit 0 --batch-recipients-per-minute 0 &
      pid=$!
      remember "$directory/pid" "$pid"
      wait_until 20 test -s "$directory/url" || die "the simulator doesn't listen"
      url=$(cat "$directory/url")
      # shellcheck disable=SC2086 # the shape is two words
      row=$("$repo/target/release/examples/simload" "$url" "$pid" "$calls" $shape)
      signal "$directory/pid" TERM
      wait "$pid"
      # What was answered must be what was carried out: a figure of refused calls would say nothing.
      [ "$(field calls "$row")" = "$(sed -n 's/^  "delivered": \([0-9]*\),$/\1/p' "$directory/report")" ] ||
        die "the simulator didn't accept every call"
      rows+=("{\"threads\": $threads, ${row#\{}")
      # shellcheck disable=SC2086
      printf '%-8s %-12s %-9s %12s %12s %15s\n' "$threads" $shape "$(field calls_per_second "$row")" \
        "$(field simulator_cpu_seconds "$row")" "$(field calls_per_second_per_core "$row")"
    done
  done
  printf '{"machine": %s, "runs": [%s]}\n' "$(machine)" "$(IFS=,; printf '%s' "${rows[*]}")" \
    >"$repo/target/bench/simulator.json"
  say "figures: target/bench/simulator.json"
}

# field NAME JSON: a number of a flat JSON object.
field() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/" <<<"$2"; }
