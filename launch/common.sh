# Functions that all launchers share; they source this file before anything else.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=$(basename "$0")
source "$ROOT/launch/home.sh"
DRY_RUN=${DRY_RUN:-}

# Prints the comment at the head of the script.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }

die() {
  echo "$PROGRAM: error: $*" >&2
  exit 2
}

# Checks that a program is installed. A dry run needs none, so that it works on any machine.
need() { # program, how to get it
  [[ -n $DRY_RUN ]] || command -v "$1" > /dev/null || die "$1 is not installed: $2"
}

# Checks that a setting without a default is set.
want() { # name, example
  [[ -n ${!1:-} ]] || die "$1 is not set: for example $1=$2"
}

# Quotes words so that a shell reads them back unchanged. printf %q would do, but it puts backslashes
# everywhere, and people have to read the result.
quoted() {
  local word out=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    out+=" $word"
  done
  printf '%s' "${out# }"
}

# Shows a command and runs it. A dry run prints it on standard output and runs nothing.
run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
    "$@"
  fi
}

# Handles --dry_run and --help; leaves all other arguments in ARGUMENTS.
parse() {
  ARGUMENTS=()
  local argument
  for argument in "$@"; do
    case $argument in
      --dry_run) DRY_RUN=1 ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) ARGUMENTS+=("$argument") ;;
    esac
  done
}

# Checks the arguments of a melody_jax command: it needs a config file that exists. Found here, a
# mistake costs nothing; found on a pod, it costs the time until the pod has started.
check_config() { # arguments
  local argument
  for argument in "$@"; do
    if [[ $argument == --config=* ]]; then
      argument=${argument#--config=}
      [[ -f $ROOT/${argument%%:*} || -f ${argument%%:*} ]] || die "no config file ${argument%%:*}"
      return
    fi
  done
  die "--config=FILE is missing, for example --config=configs/lm.py:paper"
}

# Flags of the TPU compiler, for LIBTPU_INIT_ARGS; one that is set already is taken instead, also if it
# is empty. libtpu 0.0.52 knows them all. A libtpu that lacks one ends with "Unknown command line flag".
tpu_flags() {
  local flags=(
    # Gathers and scatters of sharded parameters run beside matmuls instead of between them: without
    # this an fsdp mesh waits for the interconnect in every layer.
    --xla_enable_async_all_gather=true
    --xla_tpu_enable_async_collective_fusion=true
    --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
    # One gather may spread over several matmuls where one is too short to hide it.
    --xla_tpu_enable_async_collective_fusion_multiple_steps=true
    # The matmul unit goes on while a collective uses the rest of the core.
    --xla_tpu_overlap_compute_collective_tc=true
    # Sums of gradients over data (and over slices) start as soon as a layer's are there, also where
    # their sizes differ, and run beside the rest of the backward pass.
    --xla_tpu_enable_data_parallel_all_reduce_opt=true
    --xla_tpu_data_parallel_opt_different_sized_ops=true
    # A host of another program or version ends the run with its name, instead of a silent wait.
    --xla_tpu_use_enhanced_launch_barrier=true
  )
  printf '%s' "${LIBTPU_INIT_ARGS-${flags[*]}}"
}
