#!/usr/bin/env bash
# Submits a training to Slurm: all GPUs of one or several nodes work as one run.
#
#   NODES=2 GPUS=8 launch/gpu_slurm.sh --config=configs/lm.py:paper --workdir=DIR \
#     --config.data.path=DATASET
#   launch/gpu_slurm.sh --dry_run ...      print the command, submit nothing
#
# All arguments go to the command unchanged. DIR and DATASET must be the same paths on all nodes. The
# run saves and enters the queue again before its time ends, when it is preempted, and when it loses
# a node. Settings are environment variables:
#
#   NODES         number of nodes                                       (default 1)
#   GPUS          GPUs per node                                         (default 8)
#   TASKS         node: one process for all GPUs of a node; gpu: one per GPU    (default node)
#   TIME          time limit between two restarts                       (default 24:00:00)
#   GRACE         seconds before that limit at which the run saves      (default 300)
#   MAX_RESTARTS  largest number of restarts                            (default 20)
#   NAME          name of the job                                       (default melody_jax)
#   PARTITION     partition of the cluster                              (default: the cluster's)
#   ACCOUNT       account that pays                                     (default: the cluster's)
#   SBATCH_ARGS   further arguments for sbatch, for example "--cpus-per-task=16 --mem=0"
#   PYTHON        python of an environment with [train,cuda] that every node sees
#                                                                       (default .venv/bin/python)
#   MODULE        melody_jax.train, melody_jax.encode, ...              (default melody_jax.train)
#   MEM_FRACTION  share of a GPU's memory that JAX takes at the start   (default 0.9)
#   XLA_FLAGS     flags of XLA       (default --xla_gpu_enable_latency_hiding_scheduler=true)
source "$(dirname "$0")/common.sh"
parse "$@"
PYTHON=$(home "${PYTHON:-.venv/bin/python}") MODULE=${MODULE:-melody_jax.train} NODES=${NODES:-1}
GPUS=${GPUS:-8} TASKS=${TASKS:-node} NAME=${RUN:-${NAME:-melody_jax}}
check_config ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
need sbatch "run this on a login node of a Slurm cluster, or use launch/local.sh"

case $TASKS in
  node) per_node=1 ;;
  gpu) per_node=$GPUS ;;
  *) die "TASKS is '$TASKS': node or gpu" ;;
esac

options=(--job-name="$NAME" --chdir="$ROOT" --nodes="$NODES" --ntasks-per-node="$per_node"
  --gpus-per-node="$GPUS" --time="${TIME:-24:00:00}" --requeue --open-mode=append
  --signal="TERM@${GRACE:-300}")
[[ -z ${PARTITION:-} ]] || options+=(--partition="$PARTITION")
[[ -z ${ACCOUNT:-} ]] || options+=(--account="$ACCOUNT")
options+=(${SBATCH_ARGS:-})

# Every task sees all GPUs of its node, because NCCL needs that; JAX gives each task its own GPU.
step=(srun --kill-on-bad-exit=1 --gpu-bind=none --label "$PYTHON" -m "$MODULE" "${ARGUMENTS[@]}")
flags=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}
meet=true
if ((NODES * per_node > 1)); then
  meet="first=\$(scontrol show hostnames \"\$SLURM_JOB_NODELIST\" | head -n 1)
export MELODY_COORDINATOR=\$first:\$((61440 + SLURM_JOB_ID % 4096))"
fi
# The script of the job. All processes meet at the first node. Core dumps are off, because one of a
# GPU process can take minutes. Only two kinds of status are worth another try: 75 means "try again",
# and 128 or more means that a signal ended a task.
script="ulimit -c 0
export XLA_PYTHON_CLIENT_MEM_FRACTION=${MEM_FRACTION:-0.9} XLA_FLAGS=$(quoted "$flags")
$meet
status=0
$(quoted "${step[@]}") || status=\$?
if [ \$status -eq 75 ] || [ \$status -ge 128 ]; then
  [ \${SLURM_RESTART_COUNT:-0} -ge ${MAX_RESTARTS:-20} ] || scontrol requeue \$SLURM_JOB_ID
fi
exit \$status"

run sbatch "${options[@]}" --wrap "$script"
