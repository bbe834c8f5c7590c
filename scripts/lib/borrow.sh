# shellcheck shell=bash
# Services for the time of one script. Sourced, after common.sh.

# borrow_services: exports DATABASE_URL and AMQP_URL. Those that are given stay; private ones that somebody brought up
# (scripts/services.sh up) are used and left alone; what is missing is started in a folder of this run's own, so that
# runs don't meet, and ended when the script ends, however it ends.
borrow_services() {
  local exports
  if ! exports=$("$repo/scripts/services.sh" env 2>/dev/null); then
    export IMD_STATE=$repo/.local/run-$$
    at_exit return_services
    "$repo/scripts/services.sh" up
    exports=$("$repo/scripts/services.sh" env)
  fi
  eval "$exports"
}

return_services() {
  IMD_STATE=$repo/.local/run-$$ "$repo/scripts/services.sh" down
  rm -rf "$repo/.local/run-$$"
}
