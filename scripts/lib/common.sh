# shellcheck shell=bash
# What the scripts share: talking, packages, ports, processes. Sourced, never run; the caller has `set -euo pipefail`.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# --- the end ----------------------------------------------------------------------------------------------------

# at_exit COMMAND: run when the script ends, however it ends, the last named first. The exit status stays.
exit_commands=()
at_exit() {
  exit_commands=("$1" "${exit_commands[@]}")
  trap run_exit_commands EXIT
  # The EXIT trap runs after these, with the status that the signal means.
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
run_exit_commands() {
  local status=$? command
  trap '' HUP INT TERM
  for command in "${exit_commands[@]}"; do
    eval "$command" || say "at exit: $command failed"
  done
  exit $status
}

# --- packages ---------------------------------------------------------------------------------------------------

is_root() { [ "$(id -u)" -eq 0 ]; }

# Runs a command as root: directly, or by sudo (which may ask for a password only where somebody can answer).
as_root() {
  if is_root; then
    "$@"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo -n "$@"
  fi
}

# Whether as_root can work, without asking for anything yet.
can_be_root() {
  is_root && return 0
  command -v sudo >/dev/null || return 1
  [ -t 0 ] || sudo -n true 2>/dev/null
}

# Installs Debian packages. A package that brings a system service doesn't start it (policy-rc.d, Debian's own
# switch for that): we run private instances, and a machine's services are its owner's business.
apt_install() {
  command -v apt-get >/dev/null || return 1
  can_be_root || return 1
  say "installing $* (apt-get)"
  local policy=/usr/sbin/policy-rc.d ours=false status=0
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2016
    as_root sh -c 'printf "#!/bin/sh\nexit 101\n" >"$1" && chmod 755 "$1"' sh "$policy"
    ours=true
  fi
  {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@" ||
      { as_root apt-get -q update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$@"; }
  } >&2 </dev/null || status=1
  if $ours; then as_root rm -f "$policy"; fi
  return $status
}

# A linker and a C compiler: rustc needs the one, aws-lc-sys and mimalloc the other.
need_compiler() {
  command -v cargo >/dev/null || die "cargo isn't in PATH: install Rust 1.94 or later first, https://rustup.rs"
  command -v cc >/dev/null || apt_install gcc libc6-dev || die "no C compiler (cc): install gcc and libc6-dev"
}

# --- ports ------------------------------------------------------------------------------------------------------

# Whether anything answers on a loopback port.
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints a loopback port that is free now. Below the range that the kernel gives to outgoing connections (32768 and
# up), so that no client takes it before its server listens; a start that loses a race picks another.
free_port() {
  local port
  for _ in {1..200}; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    if ! port_taken "$port"; then
      printf '%s\n' "$port"
      return 0
    fi
  done
  die "found no free loopback port"
}

random_secret() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

# --- waiting ----------------------------------------------------------------------------------------------------

# wait_until SECONDS COMMAND...: until the command succeeds, looking ten times a second.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# --- processes --------------------------------------------------------------------------------------------------
# A process is named by its pid and its start time, kept in a file: a pid alone may have gone to somebody else.

# start_time PID: clock ticks since boot; fails where there is no such process, or only its zombie.
start_time() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The second field, the name in parentheses, may contain blanks.
  read -ra fields <<<"${stat##*) }"
  [ "${fields[0]}" != Z ] || return 1
  printf '%s\n' "${fields[19]}"
}

# remember FILE PID
remember() { printf '%s %s\n' "$2" "$(start_time "$2" || echo gone)" >"$1"; }

# alive FILE: whether the process named in it lives.
alive() {
  local pid since
  [ -r "$1" ] && read -r pid since <"$1" || return 1
  [ "$(start_time "$pid" || echo dead)" = "$since" ]
}

# signal FILE SIGNAL: to that process only, and only if it is still the same one.
signal() {
  local pid
  alive "$1" || return 0
  read -r pid _ <"$1"
  kill -s "$2" "$pid" 2>/dev/null || true
}

# signal_group FILE SIGNAL: to the whole process group that it leads (it was started by start_daemon).
signal_group() {
  local pid
  [ -r "$1" ] || return 0
  alive "$1" || return 0
  read -r pid _ <"$1"
  kill -s "$2" -- "-$pid" 2>/dev/null || true
}

gone() { ! alive "$1"; }

# start_daemon PIDFILE LOGFILE COMMAND...: in a session of its own, so that the terminal's Ctrl-C is not its end, and
# with none of our descriptors, so that nobody who reads our output waits for it.
start_daemon() {
  local pidfile=$1 log=$2
  shift 2
  setsid "$@" </dev/null >>"$log" 2>&1 9>&- &
  remember "$pidfile" $!
}
