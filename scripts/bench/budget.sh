# shellcheck shell=bash
# The budget's table: scripts/bench.sh budget [ROW]... [--seconds N] [--list] …: sourced by scripts/bench.sh.
#
# Rows are named by what their names begin with (backlog, backlog-200, urgent-16 …); rows that aren't run keep their last
# figures in target/bench/budget.json. Services that are given or up are used, else private ones are started.

bench() {
  local target
  # shellcheck source=scripts/lib/borrow.sh
  . "$repo/scripts/lib/borrow.sh"
  need_compiler
  target=$(realpath -m "${CARGO_TARGET_DIR:-$repo/target}")
  cd "$repo"
  mkdir -p "$target/bench"
  if wants_free "$@"; then
    # The one that can do without its budget is another build: no released one can.
    cargo build --quiet --release --features fault-points --bin im-dispatcher
    cp "$target/release/im-dispatcher" "$target/bench/im-dispatcher-bare"
    set -- "$@" --bare-binary "$target/bench/im-dispatcher-bare"
  fi
  cargo build --quiet --release --bin im-dispatcher --example budget
  # Workers are started over and over: a build meanwhile must not change them.
  cp "$target/release/im-dispatcher" "$target/bench/im-dispatcher"
  borrow_services
  "$target/release/examples/budget" --binary "$target/bench/im-dispatcher" --json "$target/bench/budget.json" \
    --directory "$target/bench/budget-logs" --machine "$(machine)" "$@"
}

# Whether the row without a limit is among those that are asked for.
wants_free() {
  local argument named=false
  for argument in "$@"; do
    case $argument in
      --list) return 1 ;;
      --*) ;;
      f | fr | fre | free) return 0 ;;
      [0-9]*) ;;
      *) named=true ;;
    esac
  done
  ! $named
}
