# shellcheck shell=bash
# A private RabbitMQ node from the distribution's package. Sourced by services.sh, after common.sh.
# Nodes that are to form a cluster have one secret, for their account and between each other; each has a port mapper of
# its own, so that whoever forms the cluster decides by which way one node finds another.
# Its folder: home/ (Erlang cookie), mnesia/, logs/, log, rabbitmq.conf, port, dist_port, epmd_port, url, pid, epmd.pid.

rabbitmq_bin=/usr/lib/rabbitmq/bin

rabbitmq_installed() { [ -x "$rabbitmq_bin/rabbitmq-server" ] && command -v epmd >/dev/null; }

# rabbitmq_create DIR: an account of its own with a random password; no plugins. Nodes of a cluster: rabbitmq_secret.
rabbitmq_create() {
  local dir=$1 secret
  secret=${rabbitmq_secret:-$(random_secret)}
  mkdir -m 0700 "$dir"
  mkdir -m 0700 "$dir/home" "$dir/mnesia" "$dir/logs"
  (
    umask 077
    printf '%s\n' "$secret" >"$dir/password"
    printf '%s' "$secret" >"$dir/home/.erlang.cookie"
    chmod 0400 "$dir/home/.erlang.cookie"
    : >"$dir/log"
    : >"$dir/env.conf"
    printf '[].\n' >"$dir/enabled_plugins"
  )
}

# The ports are noted before the first start and kept over restarts, since clients come back to them. The node's name
# derives from one of them, so that several nodes run side by side.
rabbitmq_configure() {
  local dir=$1 port
  [ -s "$dir/port" ] && return 0
  free_port >"$dir/port"
  free_port >"$dir/dist_port"
  free_port >"$dir/epmd_port"
  port=$(cat "$dir/port")
  (
    umask 077
    # The disk limit is far below the default of 50 MB free, the memory limit above that of 40 %: an alarm on a full
    # or busy machine would block publishers, which is a fault to be tested on purpose only.
    cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:$port
default_user = im
default_pass = $(cat "$dir/password")
disk_free_limit.absolute = 10MB
vm_memory_high_watermark.relative = 0.7
CONF
    # Of a cluster: whoever sees no majority stops, and comes back when it sees one (RabbitMQ's advice for clusters of an
    # odd number); a peer that says nothing is gone after 10 s, so that a run needn't wait for the default minute.
    if [ -n "${rabbitmq_secret:-}" ]; then
      cat >>"$dir/rabbitmq.conf" <<CONF
cluster_partition_handling = pause_minority
net_ticktime = 10
CONF
    fi
  )
  printf 'amqp://im:%s@127.0.0.1:%s/%%2f\n' "$(cat "$dir/password")" "$port" >"$dir/url"
  if is_root; then chown -R rabbitmq: "$dir"; fi
}

# rabbitmq_run DIR COMMAND...: replaces this shell by the command, with the node's environment and as its user.
rabbitmq_run() {
  local dir=$1 as=()
  shift
  if is_root; then as=(setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups --); fi
  cd "$dir" || exit 1
  # inet_dist_use_interface and ERL_EPMD_ADDRESS: the node's own ports are on loopback, too.
  exec "${as[@]}" env -i PATH="$PATH" LANG=C.UTF-8 HOME="$dir/home" \
    RABBITMQ_NODENAME="im-$(cat "$dir/port")@localhost" \
    RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$dir/logs" \
    RABBITMQ_CONFIG_FILE="$dir/rabbitmq" RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced" \
    RABBITMQ_CONF_ENV_FILE="$dir/env.conf" RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
    RABBITMQ_DIST_PORT="$(cat "$dir/dist_port")" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    ERL_EPMD_PORT="$(cat "$dir/epmd_port")" ERL_EPMD_ADDRESS=127.0.0.1 \
    "$@"
}

# rabbitmq_launch DIR: the port mapper first, in our hands: a node that finds none starts one of its own, detached.
rabbitmq_launch() {
  local dir=$1
  if ! alive "$dir/epmd.pid"; then
    rabbitmq_daemon "$dir" epmd.pid epmd
    wait_until 10 port_taken "$(cat "$dir/epmd_port")" || return 1
  fi
  rabbitmq_daemon "$dir" pid "$rabbitmq_bin/rabbitmq-server"
}

# rabbitmq_daemon DIR PIDFILE COMMAND...
rabbitmq_daemon() {
  local dir=$1 pidfile=$2
  shift 2
  # shellcheck disable=SC2016
  start_daemon "$dir/$pidfile" "$dir/log" bash -c '. "$1/common.sh"; . "$1/rabbitmq.sh"; shift; rabbitmq_run "$@"' \
    bash "$repo/scripts/lib" "$dir" "$@"
}

# amqp_answers HOST PORT: whether the broker greets: a protocol header is answered by a method frame, which begins
# with the octet 1 (connection.start). RabbitMQ opens its listeners last, so then it is up.
amqp_answers() {
  local octet
  octet=$(
    {
      exec 3<>"/dev/tcp/$1/$2" || exit 1
      printf 'AMQP\x00\x00\x09\x01' >&3
      timeout 5 head -c 1 <&3 | od -An -tu1
    } 2>/dev/null
  ) || return 1
  [ "${octet//[[:space:]]/}" = 1 ]
}

# rabbitmq_await DIR: until it answers. It takes about 8 s on two cores, and more where everything starts at once.
rabbitmq_await() {
  local dir=$1 port deadline=$((SECONDS + 120))
  port=$(cat "$dir/port")
  until amqp_answers 127.0.0.1 "$port"; do
    alive "$dir/pid" && [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

# rabbitmq_kill DIR: SIGKILL, a crash. The group is the start script, the Erlang machine and its helpers.
rabbitmq_kill() {
  local dir=$1
  signal_group "$dir/pid" KILL
  if ! wait_until 10 gone "$dir/pid" || ! wait_until 10 rabbitmq_silent "$dir"; then
    die "RabbitMQ ($dir) doesn't end"
  fi
}

rabbitmq_silent() { ! port_taken "$(cat "$1/port")"; }

rabbitmq_end_epmd() {
  signal_group "$1/epmd.pid" KILL
  wait_until 10 gone "$1/epmd.pid"
}
