# shellcheck shell=bash
# How much sooner do sends of one content go out that may be merged? As the service counts, first call to last.
# bench.sh coalesce [SENDS]: sourced by scripts/bench.sh. With 20,000 sends about three minutes.
#
# Services: DATABASE_URL and AMQP_URL where given, else what scripts/services.sh up started, else private ones.

bench() {
  local sends=${1:-20000} row rows=() name seconds singles ratio
  . "$repo/scripts/lib/borrow.sh"
  cargo build --quiet --release --manifest-path "$repo/Cargo.toml" --bin im-dispatcher --example coalesce
  borrow_services
  printf '%-8s %8s %9s %9s %9s %9s %11s\n' run sends seconds singles batches 'in them' 'of singles'
  while read -r row; do
    name=$(sed -E 's/.*"run":"([a-z]+)".*/\1/' <<<"$row")
    seconds=$(field seconds "$row")
    [ "$name" != singles ] || singles=$seconds
    ratio=$(awk -v a="$seconds" -v b="$singles" 'BEGIN { printf "%.4f", a / b }')
    rows+=("{\"of_singles\": $ratio, ${row#\{}")
    printf '%-8s %8s %9.2f %9s %9s %9s %11s\n' "$name" "$sends" "$seconds" "$(field singles "$row")" \
      "$(field batches "$row")" "$(field batch_recipients "$row")" "$ratio"
  done < <("$repo/target/release/examples/coalesce" --binary "$repo/target/release/im-dispatcher" --sends "$sends")
  [ ${#rows[@]} -eq 3 ] || die "a run failed"
  printf '{"machine": %s, "runs": [%s]}\n' "$(machine)" "$(IFS=,; printf '%s' "${rows[*]}")" \
    >"$repo/target/bench/coalesce.json"
  say "figures: target/bench/coalesce.json"
}

# field NAME JSON: a number of a flat JSON object.
field() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/" <<<"$2"; }
