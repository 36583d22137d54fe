#!/usr/bin/env bash
# Trains on this machine, with all its devices.
#
#   launch/local.sh --config=configs/lm.py:paper --workdir=DIR --config.data.path=DATASET
#   launch/local.sh --dry_run ...      print the command, run nothing
#
# All arguments go to the command unchanged. Settings are environment variables:
#
#   PYTHON        python of an environment with the [train] extra       (default .venv/bin/python)
#   MODULE        melody_jax.train, melody_jax.encode, ...              (default melody_jax.train)
#   DEVICE        cpu, gpu or tpu                                       (default: the one found)
#   MEM_FRACTION  share of a GPU's memory that JAX takes at the start   (default 0.9)
#   PROCESSES     number of processes. More than one is a rehearsal of a pod on the CPU, with
#                 DEVICES virtual devices per process                   (default 1)
#   DEVICES       virtual devices of each process in a rehearsal        (default 2)
#   PORT          port at which the processes meet                      (default 8476)
#   XLA_FLAGS     flags to add to those chosen here
source "$(dirname "$0")/common.sh"
parse "$@"
PYTHON=$(home "${PYTHON:-.venv/bin/python}") MODULE=${MODULE:-melody_jax.train} PROCESSES=${PROCESSES:-1}
cd "$ROOT"
check_config ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
need "$PYTHON" "make test builds .venv, or set PYTHON"
[[ $PROCESSES =~ ^[1-9][0-9]*$ ]] || die "PROCESSES is '$PROCESSES': it must be a number from 1 on"

device() {
  if compgen -G '/dev/nvidia[0-9]*' > /dev/null; then
    echo gpu
  elif compgen -G '/dev/accel*' > /dev/null || compgen -G '/dev/vfio/[0-9]*' > /dev/null; then
    echo tpu
  else
    echo cpu
  fi
}

DEVICE=${DEVICE:-$(device)}
[[ $PROCESSES == 1 ]] || DEVICE=cpu
flags=()
case $DEVICE in
  gpu)
    # JAX takes its memory in one piece at the start: growing in steps would fragment it.
    settings=(XLA_PYTHON_CLIENT_MEM_FRACTION="${MEM_FRACTION:-0.9}")
    # Collectives then run at the same time as arithmetic that does not need their results.
    flags+=(--xla_gpu_enable_latency_hiding_scheduler=true)
    ;;
  tpu) settings=() ;;
  cpu)
    # Without this glibc gives the temporaries of every step back to the kernel: see nano.sh.
    tunables=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736
    settings=(JAX_PLATFORMS=cpu GLIBC_TUNABLES="${GLIBC_TUNABLES:-$tunables}")
    ;;
  *) die "DEVICE is '$DEVICE': cpu, gpu or tpu" ;;
esac
[[ $PROCESSES == 1 ]] || flags+=("--xla_force_host_platform_device_count=${DEVICES:-2}")
flags+=(${XLA_FLAGS:-})
[[ ${#flags[@]} == 0 ]] || settings+=(XLA_FLAGS="${flags[*]}")

command=("$PYTHON" -m "$MODULE" "${ARGUMENTS[@]}")
if [[ $PROCESSES == 1 ]]; then
  run env ${settings[@]+"${settings[@]}"} "${command[@]}"
  exit
fi
settings+=(MELODY_COORDINATOR="localhost:${PORT:-8476}" MELODY_NUM_PROCESSES="$PROCESSES")
pids=()
# Background processes of a shell ignore an interrupt from the keyboard: pass it on.
trap '[[ ${#pids[@]} == 0 ]] || kill "${pids[@]}" 2> /dev/null || true' INT TERM
for ((i = 0; i < PROCESSES; i++)); do
  if [[ -n $DRY_RUN ]]; then
    run env "${settings[@]}" MELODY_PROCESS_ID="$i" "${command[@]}"
  else
    run env "${settings[@]}" MELODY_PROCESS_ID="$i" "${command[@]}" &
    pids+=($!)
  fi
done
status=0
for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" || status=$?; done
exit "$status"
