#!/usr/bin/env bash
# Cloud TPU VMs from nothing to a training run that survives preemption. README.md beside this file walks through it.
set -euo pipefail

usage() {
  cat <<'TEXT'
tpu/pod.sh create NAME --type TYPE --zone ZONE [--project P] [--runtime R] [--slices N] [--spot] [-- GCLOUD_FLAG...]
tpu/pod.sh setup  NAME [--revision REV]       ship a git revision to every worker and install it there
tpu/pod.sh launch NAME -- COMMAND...          start the command on every worker, detached
tpu/pod.sh watch  NAME [--every S] [--restarts N] [--delete]
                                              wait for its end; begin again after preemption or a crash
tpu/pod.sh logs   NAME [--slice N] [--worker N] [--lines N] [--follow]
tpu/pod.sh delete NAME

create waits until the pod is there. What it was given is kept in ~/.config/jaxllm/pods/NAME (or below $JAXLLM_PODS),
so that the others need the name alone; --zone and --project may be given to each of them all the same.
--dry-run: print every command, quoted, and run none.
Exit status: 0 done, 2 bad input or a command that says so, 1 anything else.
TEXT
}

die() { # die STATUS MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

say() { [ "$dry" = yes ] || printf '%s %s\n' "$(date +%H:%M:%S)" "$*" >&2; }

quote() { # quote WORD...: one line that a shell reads back as these words
  local word line=''
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'"
    fi
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

run() { # run COMMAND...: or print it
  if [ "$dry" = yes ]; then quote "$@"; else "$@"; fi
}

# ---- what is known of a pod

setting() { cat "$pods/$name/$1" 2>/dev/null || true; }

keep() { # keep KEY VALUE
  [ "$dry" = no ] || return 0
  mkdir -p "$pods/$name"
  printf '%s' "$2" >"$pods/$name/$1"
}

keep_words() { # keep_words KEY WORD...
  [ "$dry" = no ] || return 0
  local file=$pods/$name/$1
  shift
  mkdir -p "$pods/$name"
  : >"$file"
  [ $# -eq 0 ] || printf '%s\0' "$@" >"$file"
}

# ---- gcloud

tpu() { # tpu VERB ARGUMENT...: of a queued resource
  local verb=$1
  shift
  local where=(--zone "$zone")
  [ -z "$project" ] || where+=(--project "$project")
  run gcloud compute tpus queued-resources "$verb" "$@" "${where[@]}"
}

on_all() { tpu ssh "$name" --node=all --worker=all "--command=$1"; } # on_all SHELL_TEXT

state() { # ACTIVE, WAITING_FOR_RESOURCES ...; ABSENT where there is none
  local answer
  if [ "$dry" = yes ]; then
    tpu describe "$name" '--format=value(state.state)' >&3
    echo "${dry_state:-ACTIVE}"
  elif answer=$(tpu describe "$name" '--format=value(state.state)' 2>&1); then
    printf '%s\n' "$answer" | tail -n 1
  elif [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]]; then
    echo ABSENT
  else
    printf '%s\n' "$answer" >&2
    return 1
  fi
}

await_active() {
  local now before=''
  while :; do
    now=$(state) || die 1 "cannot ask for the state of $name"
    [ "$now" = "$before" ] || say "$name is $now"
    before=$now
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | ABSENT | DELETING)
        die 1 "$name is $now: see 'gcloud compute tpus queued-resources describe $name --zone $zone'" ;;
    esac
    sleep "$every"
  done
}

request() { # from what `create` kept or was given
  local spot=() nodes=(--node-id "$name")
  [ "$spot_wanted" != yes ] || spot=(--spot)
  [ "$slices" = 1 ] || nodes=(--node-count "$slices" --node-prefix "$name")
  tpu create "$name" "${nodes[@]}" --accelerator-type "$type" --runtime-version "$runtime" \
    ${spot[@]+"${spot[@]}"} ${extra[@]+"${extra[@]}"}
}

# ---- the verbs

create() {
  [ -n "$type" ] || die 2 "create: give --type, such as v5litepod-16 or v6e-8"
  if [ -z "$runtime" ]; then
    case $type in
      v6e*) runtime=v2-alpha-tpuv6e ;;
      v5p*) runtime=v2-alpha-tpuv5 ;;
      v5lite*) runtime=v2-alpha-tpuv5-lite ;;
      v[234]-*) runtime=tpu-ubuntu2204-base ;;
      *) die 2 "create: no runtime is known for --type $type; give --runtime" ;;
    esac
  fi
  [[ $slices =~ ^[1-9][0-9]*$ ]] || die 2 "create: --slices $slices: give a number"
  if [ "$dry" = no ]; then
    local now
    now=$(state) || die 1 "cannot ask for the state of $name"
    [ "$now" = ABSENT ] || die 2 "create: there is a $name already, $now; 'tpu/pod.sh delete $name' first, or another name"
  fi
  request
  keep zone "$zone"
  keep project "$project"
  keep type "$type"
  keep runtime "$runtime"
  keep slices "$slices"
  keep spot "$spot_wanted"
  keep_words flags ${extra[@]+"${extra[@]}"}
  await_active
}

setup() {
  local sha top folder
  top=$(git rev-parse --show-toplevel 2>/dev/null) || die 2 "setup: run it in the repository whose code is to be shipped"
  if [ -z "$revision" ] && [ -n "$(git -C "$top" status --porcelain)" ]; then
    die 2 "setup: there are changes that are not committed; commit them, or name what to ship by --revision"
  fi
  sha=$(git -C "$top" rev-parse --verify --quiet "${revision:-HEAD}^{commit}") ||
    die 2 "setup: there is no revision '$revision'"
  folder=$(mktemp -d)
  # A bundle carries the revision with its name, so that a run's config.json can say which code it was.
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$folder'" EXIT
  run git init --quiet --bare "$folder/ship.git"
  run git -C "$top" push --quiet "$folder/ship.git" "$sha:refs/heads/ship"
  run git -C "$folder/ship.git" bundle create --quiet "$folder/jaxllm.bundle" ship
  tpu scp "$folder/jaxllm.bundle" "$name:jaxllm.bundle" --node=all --worker=all
  on_all "git init --quiet jaxllm && cd jaxllm && git fetch --quiet ../jaxllm.bundle ship && \
git checkout --quiet --force --detach $sha && bash tpu/worker.sh setup"
  rm -rf "$folder"
  keep revision "$sha"
  say "revision ${sha:0:12} is on every worker of $name"
}

launch() {
  [ ${#words[@]} -gt 0 ] || die 2 "launch: give the command after --, such as -- python experiments/pretrain.py"
  on_all "bash jaxllm/tpu/worker.sh start $(quote "${words[@]}")"
  keep_words command "${words[@]}"
  if [ "$dry" = yes ] && [ "$verb" = launch ]; then
    if command -v python >/dev/null; then
      python "$(dirname "${BASH_SOURCE[0]}")/plan.py" "${type:-}*$slices" "${words[@]}"
    else
      echo "# no plan: pip install -e '.[plan]' in an environment whose python is on the PATH, for memory and time"
    fi
  fi
}

again() { # after a preemption: the same pod, revision and command
  say "$name is gone; requesting it again"
  [ "$1" = ABSENT ] || tpu delete "$name" --force --quiet
  request
  await_active
  setup
  launch
}

statuses() { # one line per worker: running, exit N, dead, idle, absent
  local answer
  answer=$(on_all "[ -e jaxllm/tpu/worker.sh ] && bash jaxllm/tpu/worker.sh status || echo jaxllm-status: absent" \
    2>&1) || { printf '%s\n' "$answer" >&2 && return 1; }
  if [ "$dry" = yes ]; then
    printf '%s\n' "$answer" >&3
    answer='jaxllm-status: exit 0'
  fi
  printf '%s\n' "$answer" | sed -n 's/.*jaxllm-status: //p'
}

tally() { sort | uniq -c | tr -s ' \n' ' ' | sed 's/^ //; s/ $//'; } # lines as "2 running 1 dead"

watch() {
  local now found silent=0 restarted=0
  revision=${revision:-$(setting revision)}
  [ -n "$type" ] || die 2 "watch: $name was not created from here: it could not be requested again"
  [ ${#words[@]} -gt 0 ] || die 2 "watch: nothing was launched on $name; launch it, or give the command after --"
  if [ "$dry" = yes ]; then
    echo '# were it preempted:'
    dry_state=SUSPENDED state >/dev/null
    again SUSPENDED
    echo '# else:'
  fi
  while :; do
    if ! now=$(state) || { [ "$now" = ACTIVE ] && ! found=$(statuses); }; then
      silent=$((silent + 1))
      [ "$silent" -lt "$patience" ] || die 1 "watch: $name did not answer $silent times running"
      sleep "$every"
      continue
    fi
    silent=0
    case $now in
      ACTIVE) ;;
      SUSPENDING | SUSPENDED | FAILED | ABSENT)
        again "$now" # not in a list: its failures are to end the script
        continue
        ;;
      *) sleep "$every" && continue ;;
    esac
    if grep -qx 'exit 2' <<<"$found"; then
      on_all 'bash jaxllm/tpu/worker.sh stop; bash jaxllm/tpu/worker.sh log 5' || true
      die 2 "watch: the command says that its input is bad (status 2); see the lines above"
    elif ! grep -qvx 'exit 0' <<<"$found"; then
      say "$name: every worker is done"
      [ "$delete_after" = no ] || delete
      return
    elif grep -qvx -e 'exit 0' -e running <<<"$found"; then
      restarted=$((restarted + 1))
      [ "$restarted" -le "$restarts" ] ||
        die 1 "watch: stopped after $restarts restarts; the last: $(tally <<<"$found")"
      say "$name: $(tally <<<"$found"); starting again ($restarted of $restarts)"
      if grep -qx absent <<<"$found"; then setup; fi
      on_all 'bash jaxllm/tpu/worker.sh stop'
      launch
    fi
    sleep "$every"
  done
}

logs() {
  local tail="bash jaxllm/tpu/worker.sh log $lines"
  [ "$follow" = no ] || tail+=" -f"
  tpu ssh "$name" "--node=$slice" "--worker=$worker" "--command=$tail"
}

delete() {
  tpu delete "$name" --force --quiet
  [ "$dry" = yes ] || rm -rf "${pods:?}/$name"
}

# ---- the command line

exec 3>&1
pods=${JAXLLM_PODS:-${XDG_CONFIG_HOME:-$HOME/.config}/jaxllm/pods}
verb='' name='' dry=no type='' zone='' project='' runtime='' slices='' spot_wanted='' revision='' every=30 restarts=20
patience=10 delete_after=no slice=0 worker=0 lines=50 follow=no words=() extra=()

while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --spot) spot_wanted=yes ;;
    --delete) delete_after=yes ;;
    --follow) follow=yes ;;
    --help | -h) usage && exit 0 ;;
    --type | --zone | --project | --runtime | --slices | --revision | --every | --restarts | --slice | --worker | --lines)
      [ $# -ge 2 ] || die 2 "$1 wants a value"
      printf -v "${1#--}" '%s' "$2"
      shift
      ;;
    --) shift && words=("$@") && break ;;
    -*) die 2 "there is no flag $1 (see --help)" ;;
    *)
      if [ -z "$verb" ]; then verb=$1; elif [ -z "$name" ]; then name=$1; else die 2 "what is '$1'? a command goes after --"; fi
      ;;
  esac
  shift
done

case $verb in
  create | setup | launch | watch | logs | delete) ;;
  '') usage >&2 && exit 2 ;;
  *) die 2 "there is no '$verb': create, setup, launch, watch, logs or delete" ;;
esac
[[ $name =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ||
  die 2 "$verb: give the pod's name, in small letters, digits and dashes, not '$name'"
for number in every restarts lines; do
  [[ ${!number} =~ ^[0-9]+$ ]] || die 2 "--$number ${!number}: give a number"
done
[ "$dry" = yes ] || command -v gcloud >/dev/null || die 2 "gcloud is not on the PATH; install the Google Cloud CLI"

if [ "$verb" = create ]; then
  extra=(${words[@]+"${words[@]}"}) words=()
elif [ -d "$pods/$name" ]; then
  type=${type:-$(setting type)} runtime=${runtime:-$(setting runtime)} slices=${slices:-$(setting slices)}
  spot_wanted=${spot_wanted:-$(setting spot)} zone=${zone:-$(setting zone)} project=${project:-$(setting project)}
  while IFS= read -r -d '' word; do extra+=("$word"); done <"$pods/$name/flags"
  if [ "$verb" = watch ] && [ ${#words[@]} -eq 0 ] && [ -e "$pods/$name/command" ]; then
    while IFS= read -r -d '' word; do words+=("$word"); done <"$pods/$name/command"
  fi
fi
slices=${slices:-1}
[ -n "$zone" ] || die 2 "$verb: $name was not created from here; give --zone"
"$verb"
