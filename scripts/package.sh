#!/usr/bin/env bash
# Builds the Debian package of this version with cargo-deb (metadata in Cargo.toml, files in deploy/):
#
#   scripts/package.sh              builds it, looks at it with lintian where that is there, and prints its path
#   scripts/package.sh --install    installs lintian, too, where it isn't there
#   scripts/package.sh --no-build   packs target/release/im-dispatcher as it is
#   scripts/package.sh --try        as root: then also installs the package, runs the service as its unit would against private
#                                   services until a job is sent, purges it, and looks for what is left behind
#
# The binary is linked against this machine's glibc: build on the oldest distribution that it is for.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
. scripts/lib/stage.sh

build=true install=false try=false
for argument; do
  case $argument in
    --install) install=true ;;
    --no-build) build=false ;;
    --try) try=true ;;
    *) die "unknown argument $argument: only --install, --no-build and --try" ;;
  esac
done
if $try; then
  is_root || die "--try installs and purges the package: run it as root"
  ! dpkg-query --status im-dispatcher >/dev/null 2>&1 || die "im-dispatcher is installed here: --try would purge it"
fi

need_compiler
if ! cargo deb --version >/dev/null 2>&1; then
  say "installing cargo-deb (cargo install)"
  cargo install cargo-deb --locked --debug --quiet --version '^3' || die "cargo-deb can't be installed here"
fi

# The package's metadata names it.
unset CARGO_TARGET_DIR
if $build; then cargo build --release --locked --bin im-dispatcher; fi
bin=$repo/target/release
mkdir -p target/package
dispatcher completions bash >target/package/im-dispatcher.bash
dispatcher completions zsh >target/package/_im-dispatcher
dispatcher completions fish >target/package/im-dispatcher.fish
package=$(cargo deb --no-build --quiet | tail -n 1)

if ! command -v lintian >/dev/null && $install; then
  apt_install lintian || say "lintian can't be installed here"
fi
if command -v lintian >/dev/null; then
  lintian --fail-on error "$package" >&2
else
  say "lintian isn't there: the package wasn't looked at"
fi

# --- the trial ----------------------------------------------------------------------------------------------------

etc=/etc/im-dispatcher

# What belongs to the package by its name, wherever packages put things; not what a package manager keeps for itself.
belongings() {
  find /etc /lib/systemd /run /usr /var -xdev -name '*im-dispatcher*' -not -path "$repo/*" \
    -not -path '/var/cache/*' -not -path '/var/tmp/*' -print | sort
}

purge() {
  apt-get -q -y purge im-dispatcher >"$work/purge.log" 2>&1 </dev/null || { tail -n 20 "$work/purge.log" >&2 && return 1; }
  # The account stays, as Debian's do; this one was made for the trial.
  if $new_account; then deluser --quiet --system im-dispatcher >&2; fi
}

# as_service COMMAND...: as the account, in the folder and with the environment that the unit gives.
as_service() {
  cd /var/lib/im-dispatcher
  exec setpriv --reuid=im-dispatcher --regid=im-dispatcher --init-groups -- \
    env -i PATH=/usr/bin:/bin LANG=C.UTF-8 IM_DISPATCHER_CONFIG=$etc/im-dispatcher.toml "$@"
}

settings() {
  printf '%s' "$DATABASE_URL" >$etc/database-url
  printf '%s' "$AMQP_URL" >$etc/amqp-url
  printf '%s' "$IM_SECRET_KEY" >$etc/secret-key
  chown root:im-dispatcher $etc/*
  chmod 0640 $etc/*
  cat >$etc/im-dispatcher.toml <<TOML
database_url_file = "$etc/database-url"
amqp_url_file = "$etc/amqp-url"

[http]
addr = "127.0.0.1:$http"

[apps.default]
sdk_app_id = $IM_SDK_APP_ID
base_url = "$IM_BASE_URL"
secret_file = "$etc/secret-key"
TOML
}

try_package() {
  local unit before after path mode command
  work=$repo/.local/package-$$
  mkdir -p "$work"
  # Its own services, whatever is given: nothing of the trial stays in them.
  unset DATABASE_URL AMQP_URL
  export IMD_STATE=$work
  at_exit "scripts/services.sh down; rm -rf '$work'"
  scripts/services.sh up
  eval "$(scripts/services.sh env)"
  start_simulator
  http=$(free_port)

  new_account=false
  getent passwd im-dispatcher >/dev/null || new_account=true
  before=$(belongings)
  at_exit 'if dpkg-query --status im-dispatcher >/dev/null 2>&1; then purge; fi'
  apt_install "$(realpath "$package")" || die "the package can't be installed"
  [ -z "$(pgrep -u im-dispatcher)" ] || die "something was started by the installation"
  while read -r path mode; do
    [ "$(stat -c '%U:%G %a' "$path")" = "root:im-dispatcher $mode" ] || die "$path isn't root:im-dispatcher $mode"
  done <<<"$etc 750
$etc/im-dispatcher.toml 640
/etc/default/im-dispatcher 640"
  unit=$(dpkg --listfiles im-dispatcher | grep '/im-dispatcher\.service$')
  if command -v systemd-analyze >/dev/null; then systemd-analyze verify --recursive-errors=no "$unit"; fi

  settings
  # As StateDirectory does.
  install -d -o im-dispatcher -g im-dispatcher -m 0750 /var/lib/im-dispatcher
  read -ra command <<<"$(sed -n 's/^ExecStart=//p' "$unit")"
  # shellcheck disable=SC2016
  start_daemon "$work/worker.pid" "$work/worker.log" bash -c "$(declare -f as_service)"'; etc=$1; shift; as_service "$@"' \
    bash $etc "${command[@]}"
  worker_pid=$!
  at_exit 'end worker'
  wait_until 60 request "$http" GET /readyz '' || { tail -n 20 "$work/worker.log" >&2 && die "the service isn't ready"; }
  (as_service im-dispatcher check) >&2 || die "check isn't satisfied"
  printf '%s\n' '{"type": "send", "id": "packaged", "to": "alice", "message": {"text": "Hello"}}' >"$work/job"
  (as_service im-dispatcher submit --lane high -) <"$work/job" >&2
  (as_service im-dispatcher status packaged --wait --timeout 60) >&2
  end worker
  wait "$worker_pid" || die "the service's exit code is not 0"

  apt-get -q -y remove im-dispatcher >"$work/remove.log" 2>&1 </dev/null
  [ -e $etc/im-dispatcher.toml ] || die "a removal that is no purge took the settings"
  purge || die "the package can't be purged"
  after=$(belongings)
  diff <(echo "$before") <(echo "$after") >&2 || die "the purge left something behind"
  say "installed, started, one job sent, purged; nothing is left behind"
}

if $try; then try_package; fi
printf '%s\n' "$package"
