#!/usr/bin/env bash
# What happens on one worker; pod.sh calls it there over ssh. Keeps the pid, the exit status and the log in ~/jaxllm-run.
#   worker.sh setup | start COMMAND... | status | stop [SECONDS] | log [LINES [-f]]
set -euo pipefail

code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$HOME/jaxllm-run
venv=$HOME/jaxllm-venv

alive() { # by its name too, for after a restart of the machine another process may have the number
  [ -e "$home/leader" ] && tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$home/leader")/cmdline" | grep -q 'worker.sh run'
}

setup() {
  # The image's Python may be older than what jaxllm needs; uv brings one.
  local uv=$HOME/.local/bin/uv
  [ -x "$uv" ] || python3 -m pip install --quiet --user uv
  [ -x "$venv/bin/python" ] || "$uv" venv --quiet --python 3.12 "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --editable "${code}[${JAXLLM_EXTRA:-tpu}]"
}

start() {
  if alive; then
    echo "error: a command is running here already; 'worker.sh stop' ends it" >&2
    exit 3
  fi
  mkdir -p "$home"
  rm -f "$home/status" "$home/pid"
  setsid bash "${BASH_SOURCE[0]}" run "$@" </dev/null >>"$home/log" 2>&1 &
  echo $! >"$home/leader"
}

run() { # the leader of a session of its own, which outlives the ssh connection
  cd "$code"
  export PATH=$venv/bin:$PATH
  printf '== %s %s %s\n' "$(date -u +%FT%TZ)" "$(git rev-parse --short=12 HEAD 2>/dev/null)" "$*"
  "$@" &
  echo $! >"$home/pid"
  trap '' TERM # of a shutdown, so that the status is still written; the command has had its own
  local status=0
  wait $! || status=$?
  printf '== %s exit status %s\n' "$(date -u +%FT%TZ)" "$status"
  echo "$status" >"$home/status.part"
  mv "$home/status.part" "$home/status"
}

status() {
  local found=idle
  if alive; then
    found=running
  elif [ -e "$home/status" ]; then
    found="exit $(cat "$home/status")"
  elif [ -e "$home/leader" ]; then
    found=dead # the machine was restarted, or the command was killed with all of its session
  fi
  echo "jaxllm-status: $found"
}

stop() { # SIGTERM, on which a run saves; then SIGKILL
  local until=$((SECONDS + ${1:-300}))
  alive || return 0
  while [ ! -s "$home/pid" ] && alive && [ "$SECONDS" -lt "$until" ]; do sleep 0.1; done # it begins
  kill -TERM "$(cat "$home/pid")" 2>/dev/null || true
  while alive && [ "$SECONDS" -lt "$until" ]; do sleep 0.2; done
  if alive; then kill -KILL -- "-$(cat "$home/leader")" 2>/dev/null || true; fi
}

log() { tail -n "${1:-50}" ${2:+"$2"} "$home/log"; }

case ${1:-} in
  setup | start | run | status | stop | log) "$@" ;;
  *) sed -n '2,3s/^# *//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
