#!/usr/bin/env bash
# What the tools of others say of deploy/ and docker-compose.yml:
#
#   scripts/check-deploy.sh rules        promtool: the alert rules, and their tests
#   scripts/check-deploy.sh schemas      the compose file against the compose specification, the manifests against the
#                                        schemas of Kubernetes, by check-jsonschema and kubernetes-validate from PyPI
#   scripts/check-deploy.sh systemd      systemd-analyze: the unit, and how exposed it is
#   scripts/check-deploy.sh              all of them
#
# What can't be installed here is skipped with a sentence. Tools are kept in .local/tools.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

tools=$repo/.local/tools

unpack_prometheus() {
  local work status=0
  work=$(mktemp -d)
  if (cd "$work" && { apt-get -q download prometheus || { as_root apt-get -q update && apt-get -q download prometheus; }; }) >&2; then
    mkdir -p "$tools/prometheus"
    dpkg-deb -x "$work"/prometheus_*.deb "$tools/prometheus" || status=1
  else
    status=1
  fi
  rm -rf "$work"
  return $status
}

# promtool is in Debian's package of the server, which isn't installed: its binary is taken out of it.
promtool() {
  # A program, not this function.
  if type -P promtool >/dev/null; then
    command promtool "$@"
    return
  fi
  [ -x "$tools/prometheus/usr/bin/promtool" ] || unpack_prometheus || return 127
  "$tools/prometheus/usr/bin/promtool" "$@"
}

rules() {
  if ! promtool --version >/dev/null 2>&1; then
    echo "skipped: promtool (Debian's package prometheus) can't be had here"
    return 0
  fi
  promtool check rules deploy/prometheus/alerts.yml
  promtool check config deploy/prometheus/prometheus.yml
  promtool test rules deploy/prometheus/alerts.test.yml
}

schemas() {
  local python=$tools/python
  if [ ! -x "$python/bin/kubernetes-validate" ]; then
    if ! python3 -m venv "$python" 2>/dev/null ||
      ! "$python/bin/pip" --quiet --disable-pip-version-check install 'check-jsonschema>=0.39' 'kubernetes-validate>=1.37'; then
      rm -rf "$python"
      echo "skipped: check-jsonschema and kubernetes-validate can't be had from PyPI here"
      return 0
    fi
  fi
  "$python/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml
  local manifests
  mapfile -t manifests < <(find deploy/kubernetes/base -name '*.yaml' ! -name kustomization.yaml)
  "$python/bin/kubernetes-validate" --strict "${manifests[@]}"
  if command -v kubectl >/dev/null; then
    # Only puts the files together; no cluster is asked.
    for folder in base keda prometheus-operator; do kubectl kustomize "deploy/kubernetes/$folder" >/dev/null; done
    echo "kustomize builds base, keda and prometheus-operator"
  fi
}

systemd() {
  if ! command -v systemd-analyze >/dev/null && ! apt_install systemd; then
    echo "skipped: systemd-analyze can't be installed here"
    return 0
  fi
  # The unit names /usr/bin/im-dispatcher, which must exist to be verified: a root of its own has one.
  local root
  root=$(mktemp -d)
  mkdir -p "$root/etc/systemd/system" "$root/usr/bin" "$root/bin"
  cp deploy/systemd/im-dispatcher.service "$root/etc/systemd/system/"
  for file in /usr/bin/im-dispatcher /bin/kill; do
    printf '#!/bin/sh\n' >"$root$file"
    chmod 755 "$root$file"
  done
  # Units of the distribution that it names aren't there; only what is said of ours counts.
  local said
  said=$(systemd-analyze verify --recursive-errors=no --root="$root" im-dispatcher.service 2>&1) || { say "$said"; return 1; }
  printf '%s\n' "$said"
  # 2.0 of 10 is what systemd calls OK; the threshold is in tenths.
  systemd-analyze security --offline=true --threshold=20 --no-pager --root="$root" im-dispatcher.service |
    grep 'Overall exposure'
  rm -rf "$root"
}

case ${1:-all} in
  rules | schemas | systemd) "$1" ;;
  all)
    rules
    schemas
    systemd
    ;;
  *) die "unknown argument $1: rules, schemas or systemd" ;;
esac
