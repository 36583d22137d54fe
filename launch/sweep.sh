#!/usr/bin/env bash
# Runs a sweep of configs/sweeps: each run in its own directory.
#
#   launch/sweep.sh lm_learning_rate runs/sweeps --config.data.path=DATASET
#   launch/sweep.sh chunks:paper DIR ...        the same sweep at another size
#   launch/sweep.sh gather NAME DIR             results.md, .csv and .png of the finished runs
#   launch/sweep.sh list                        list the sweeps
#   launch/sweep.sh --dry_run NAME DIR ...      print the commands, run nothing
#
# Runs of an evaluation share one process where they go one after the other on this machine.
# The directory of a run is DIR/<sweep>/<settings of the run>. Further arguments go to every run. A
# second call goes on where the first one stopped and passes over finished runs. If a run fails, the
# others still run. After the last one the results are gathered; where jobs were only handed in, call
# gather when they are done.
# Settings, from the environment:
#
#   JOBS       number of runs at the same time, on this machine         (default 1)
#   GPUS       GPUs to give out, one per run, for example "0 1 2 3"     (default: all to each run)
#   LAUNCHER   launcher of a run: "launch/gpu_slurm.sh", "launch/tpu_xpk.sh run" or
#              "launch/tpu_gcloud.sh run"; a job or workload has the name of its run
#                                                                       (default launch/local.sh)
#   PYTHON     python of an environment with the package                (default .venv/bin/python)
source "$(dirname "$0")/common.sh"
parse "$@"
PYTHON=$(home "${PYTHON:-.venv/bin/python}")
export PYTHON DRY_RUN
LAUNCHER=$(home "${LAUNCHER:-launch/local.sh}")
# One word where it is a file, whose path may have spaces; else a launcher and its verb.
if [[ -f $LAUNCHER ]]; then launcher=("$LAUNCHER"); else read -ra launcher <<< "$LAUNCHER"; fi
read -ra gpus <<< "${GPUS:-}"
JOBS=${JOBS:-${#gpus[@]}}
((JOBS > 0)) || JOBS=1
((JOBS == 1 || BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) || die "JOBS needs bash 5.1 or newer"
cd "$ROOT"
command -v "$PYTHON" > /dev/null || die "$PYTHON is not installed: make test builds .venv, or set PYTHON"
if [[ ${ARGUMENTS[0]:-list} == list ]]; then
  exec "$PYTHON" launch/sweep.py list
fi
if [[ ${ARGUMENTS[0]} == gather ]]; then exec "$PYTHON" launch/sweep.py "${ARGUMENTS[@]}"; fi
((${#ARGUMENTS[@]} >= 2)) || die "a sweep and a directory are needed: see --help"
[[ ${#gpus[@]} == 0 || $JOBS -le ${#gpus[@]} ]] || die "JOBS is $JOBS, GPUS has ${#gpus[@]}"

# One run per line: its name, its module, its arguments.
if [[ -z $DRY_RUN ]]; then verb=(pending); else verb=(); fi
lines=$("$PYTHON" launch/sweep.py ${verb[@]+"${verb[@]}"} "${ARGUMENTS[@]}") || exit 2
failed=$(mktemp)
trap 'rm -f "$failed"' EXIT
# Background processes of a shell ignore an interrupt from the keyboard: pass it on.
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
read -r _ module _ <<< "$lines"
# Evaluations one after the other share a process: models, programs and the reference are made once.
if [[ ${module:-} == melody_jax.evaluate && -z $DRY_RUN && $JOBS == 1 && ${#gpus[@]} == 0 &&
  $LAUNCHER == launch/local.sh ]]; then
  "$PYTHON" launch/sweep.py run "${ARGUMENTS[@]}" || echo "run (status $?)" >> "$failed"
  lines=
fi
declare -A slot_of=()
free=()
for ((i = JOBS - 1; i >= 0; i--)); do free+=("$i"); done
while IFS= read -r line; do
  [[ -n $line ]] || continue # all runs are finished
  if ((${#free[@]} == 0)); then
    wait -n -p done || true
    free+=("${slot_of[$done]}")
  fi
  # A slot is a GPU, so a run gets the one that the last finished run has given back.
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
# Runs here are over now; what other launchers were handed may still wait in a queue.
if [[ -z $DRY_RUN && $LAUNCHER == launch/local.sh ]]; then
  "$PYTHON" launch/sweep.py gather "${ARGUMENTS[@]:0:2}" || echo "gather" >> "$failed"
fi
[[ ! -s $failed ]] || die "these runs failed: $(paste -sd ';' "$failed")"
