#!/usr/bin/env bash
# Runs a sweep of configs/sweeps: each of its runs in a directory of its own.
#
#   launch/sweep.sh lm_learning_rate runs/sweeps --config.data.path=DATASET
#   launch/sweep.sh list                        the sweeps
#   launch/sweep.sh --dry_run NAME DIR ...      print the commands, run nothing
#
# DIR/<sweep>/<what differs> holds a run; more arguments go to every run. A second call goes on
# where the first stopped. A run that fails does not keep the others from running.
# Settings, from the environment:
#
#   JOBS       runs at a time, on this machine                          (default 1)
#   GPUS       GPUs to give out, one a run: "0 1 2 3"                   (default: all to each)
#   LAUNCHER   what runs one                                            (default launch/local.sh)
#              "launch/gpu_slurm.sh", "launch/tpu_xpk.sh run", "launch/tpu_gcloud.sh run";
#              (a job or workload is named after its run)
#   PYTHON     python of an environment with the package                (default .venv/bin/python)
source "$(dirname "$0")/common.sh"
parse "$@"
export PYTHON=${PYTHON:-.venv/bin/python} DRY_RUN
read -ra launcher <<< "${LAUNCHER:-launch/local.sh}"
read -ra gpus <<< "${GPUS:-}"
JOBS=${JOBS:-${#gpus[@]}}
((JOBS > 0)) || JOBS=1
((JOBS == 1 || BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || die "JOBS needs bash 5.1 or newer"
cd "$ROOT"
command -v "$PYTHON" > /dev/null || die "$PYTHON is not installed: make test builds .venv, or set PYTHON"
if [[ ${ARGUMENTS[0]:-list} == list ]]; then
  exec "$PYTHON" launch/sweep.py list
fi
((${#ARGUMENTS[@]} >= 2)) || die "a sweep and a directory are needed: see --help"
[[ ${#gpus[@]} == 0 || $JOBS -le ${#gpus[@]} ]] || die "JOBS is $JOBS, GPUS has ${#gpus[@]}"

# One run a line: its name, its module, its arguments.
lines=$("$PYTHON" launch/sweep.py "${ARGUMENTS[@]}") || exit 2
failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
# A shell's background processes do not hear an interrupt from the keyboard.
trap 'trap - TERM; kill -TERM 0' INT
one() { # slot, line
  local words gpu=${gpus[$1]:-}
  eval "words=($2)"
  [[ -z $gpu ]] || export CUDA_VISIBLE_DEVICES=$gpu
  [[ -n $DRY_RUN ]] || echo "== ${words[0]}" >&2
  RUN=${words[0]} MODULE=${words[1]} "${launcher[@]}" "${words[@]:2}" ||
    echo "${words[0]} (status $?)" >> "$failed"
}

if [[ -n $DRY_RUN ]]; then JOBS=1; fi
declare -A slot_of=()
free=()
for ((i = JOBS - 1; i >= 0; i--)); do free+=("$i"); done
while IFS= read -r line; do
  if ((${#free[@]} == 0)); then
    wait -n -p done || true
    free+=("${slot_of[$done]}")
  fi
  slot=${free[-1]}
  unset 'free[-1]'
  if ((JOBS == 1)); then
    (one "$slot" "$line") < /dev/null
    free+=("$slot")
  else
    one "$slot" "$line" < /dev/null &
    slot_of[$!]=$slot
  fi
done <<< "$lines"
wait
[[ ! -s $failed ]] || die "these runs failed: $(paste -sd ';' "$failed")"
