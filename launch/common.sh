# What the launchers share; they source it before anything else.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=$(basename "$0")
DRY_RUN=${DRY_RUN:-}

# The comment at the head of the script.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }

die() {
  echo "$PROGRAM: error: $*" >&2
  exit 2
}

# A program that must be there; a dry run does without.
need() { # program, how to get it
  [[ -n $DRY_RUN ]] || command -v "$1" > /dev/null || die "$1 is not installed: $2"
}

# A setting without a default.
want() { # name, example
  [[ -n ${!1:-} ]] || die "$1 is not set: for example $1=$2"
}

# Words as the shell would read them again.
quoted() {
  local word out=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    out+=" $word"
  done
  printf '%s' "${out# }"
}

# Runs a command and shows it; a dry run prints it on standard output and runs nothing.
run() {
  if [[ -n $DRY_RUN ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
    "$@"
  fi
}

# Takes --dry_run and --help out of the arguments; the rest is in ARGUMENTS.
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

# The arguments of a command of melody_jax, which needs at least a config.
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
