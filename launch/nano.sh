#!/usr/bin/env bash
# The nano recipe: everything from raw data to a finished bundle, on one machine.
#
#   launch/nano.sh all                 every stage, in order
#   launch/nano.sh train_lm            one stage
#   launch/nano.sh --dry_run all       print the commands, run nothing
#   launch/nano.sh list                list the stages
#   launch/nano.sh status              where each stage stands: step, loss, held-out loss, time left
#
# A finished stage leaves a mark in $ROOT/done and is skipped the next time; FORCE=1 runs it again.
# A stage that was interrupted goes on where it stopped; encode runs always and redoes what older
# models or another state of the data made. Settings are environment variables; paths may have spaces
# in them, begin with ~, and are relative to the checkout:
#
#   PYTHON    python of an environment with the [train,data,eval] extras   (default .venv/bin/python)
#   PRESET    nano, tiny or paper                                          (default nano)
#   ROOT      directory of runs and encoded datasets                       (default runs/$PRESET)
#   DATA      directory of datasets and downloads                          (default $MELODY_DATA or ~/melody_data)
#   JOBS      number of processes that build datasets                      (default 2)
#   AUDIO     comma-separated datasets to train on, of different names, for example one that
#             `python -m data.music_folder` wrote                          (default: both corpora, built here)
#   BUNDLE    directory of the finished models                             (default checkpoints/$PRESET)
#   X_ARGS    further arguments for stage x, for example TRAIN_LM_ARGS="--config.train.steps=500";
#             quotes keep one with spaces together: ENCODE_ARGS="'--config.splits=train, test'"
set -euo pipefail
cd "$(dirname "$0")/.."

source launch/home.sh
PYTHON=$(home "${PYTHON:-.venv/bin/python}")
PRESET=${PRESET:-nano}
ROOT=$(home "${ROOT:-runs/$PRESET}")
DATA=$(home "${DATA:-${MELODY_DATA:-"~/melody_data"}}")
JOBS=${JOBS:-2}
BUNDLE=$(home "${BUNDLE:-checkpoints/$PRESET}")
DRY_RUN=
# By default glibc gives the temporaries of a step (a gigabyte) back to the kernel, which hands them
# out again page by page. If glibc keeps them, a DPD step takes 1.09 s instead of 1.31 s (nano, batch
# 4, 2 cores of an AMD EPYC).
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736}

STAGES=(fit_axes train_vae export_vae fit_latents
  train_wav2vec export_wav2vec fit_semantic
  train_mulan export_mulan fit_style fit_prior
  encode
  train_lm export_lm train_dpd export_dpd
  evaluate)

if [[ -z ${AUDIO:-} ]]; then
  AUDIO=$DATA/recorded,$DATA/rendered
  STAGES=(build_recorded build_rendered "${STAGES[@]}")
  BUILDS=1
fi
# The mixture that the shipped checkpoint learned from (its model card), unless given otherwise. Half
# of the LM's windows follow a caption: then it knows what prompts sound like.
if [[ -n ${BUILDS:-} && $PRESET == nano ]]; then
  BUILD_RENDERED_ARGS=${BUILD_RENDERED_ARGS---pieces=12 --texture_share=12}
  ENCODE_ARGS=${ENCODE_ARGS---config.style_hop_seconds=10 --config.caption_styles=0.5}
  TRAIN_MULAN_ARGS=${TRAIN_MULAN_ARGS---config.data.weights=0.4,0.6}
  FIT_STYLE_ARGS=${FIT_STYLE_ARGS---config.data.weights=0.4,0.6}
  FIT_PRIOR_ARGS=${FIT_PRIOR_ARGS---config.data.weights=0.4,0.6}
  FIT_AXES_ARGS=${FIT_AXES_ARGS---config.data.weights=0.65,0.35 --config.windows=800}
  FIT_LATENTS_ARGS=${FIT_LATENTS_ARGS---config.data.weights=0.5,0.5 --config.windows=300}
  FIT_SEMANTIC_ARGS=${FIT_SEMANTIC_ARGS---config.data.weights=0.6,0.4 --config.windows=1600}
  TRAIN_LM_ARGS=${TRAIN_LM_ARGS---config.data.weights=0.3,0.7}
  TRAIN_DPD_ARGS=${TRAIN_DPD_ARGS---config.data.weights=0.35,0.65}
fi
IFS=, read -ra datasets <<< "$AUDIO"
for i in "${!datasets[@]}"; do datasets[i]=$(home "${datasets[i]}"); done
AUDIO=$(IFS=, && printf '%s' "${datasets[*]}")

# Lists the datasets of AUDIO, each with a prefix before its name; with "name=" as a=X/a,b=X/b.
each() { # prefix
  local path list=()
  for path in "${datasets[@]}"; do
    case $1 in
      name=) list+=("$(basename "$path")=$path") ;;
      *) list+=("$1$(basename "$path")") ;;
    esac
  done
  (IFS=, && printf '%s' "${list[*]}")
}

# Everything made of a dataset goes by the last part of its path.
twice=$(each name= | tr , '\n' | sed 's/=.*//' | sort | uniq -d | head -n 1)
if [[ -n $twice ]]; then
  echo "nano.sh: error: AUDIO names two datasets '$twice', which would share $ROOT/encoded/$twice:" \
    "rename the directory of one of them" >&2
  exit 2
fi

# The datasets with style tokens, semantic tokens and latents, one for each dataset of AUDIO.
ENCODED=$(each "$ROOT/encoded/")

run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [[ -n $DRY_RUN ]] || "$@"
}

# Puts the further arguments of stage x (train_lm, encode, ...), which the environment variable X_ARGS
# holds, into MORE. xargs knows quotes, and does nothing else with the text.
extra() { # stage
  local variable=${1^^}_ARGS words
  MORE=()
  [[ -n ${!variable:-} ]] || return 0
  if ! words=$(printf '%s' "${!variable}" | xargs -n 1 printf '%s\n' 2> /dev/null); then
    echo "nano.sh: error: $variable has a quote without its pair: ${!variable}" >&2
    exit 2
  fi
  mapfile -t MORE <<< "$words"
}

build() { # corpus
  extra "build_$1"
  run "$PYTHON" -m "data.$1" --data_dir="$DATA" --jobs="$JOBS" "${MORE[@]}"
}

train() { # model datasets [arguments]
  extra "train_$1"
  run "$PYTHON" -m melody_jax.train --config="configs/$1.py:$PRESET" --workdir="$ROOT/$1" \
    --config.data.path="$2" "${@:3}" "${MORE[@]}"
}

export_model() { # model
  extra "export_$1"
  run "$PYTHON" -m melody_jax.export --config="configs/$1.py:$PRESET" --workdir="$ROOT/$1" \
    --config.export.bundle="$BUNDLE" "${MORE[@]}"
}

# Fits and evaluations have the size of tests beside their own.
SIZE=
[[ $PRESET != tiny ]] || SIZE=_tiny

fit() { # what
  extra "fit_$1"
  run "$PYTHON" -m melody_jax.fit --config="configs/fit.py:$1$SIZE" \
    --config.bundle="$BUNDLE" --config.data.path="$AUDIO" "${MORE[@]}"
}

encode() {
  local path
  extra encode
  for path in "${datasets[@]}"; do
    run "$PYTHON" -m melody_jax.encode --config=configs/encode.py --config.source="$path" \
      --config.bundle="$BUNDLE" --config.out="$ROOT/encoded/$(basename "$path")" "${MORE[@]}"
  done
}

build_recorded() { build recorded; }
build_rendered() { build rendered; }
# Nano's codec is born as the principal axes of the corpus' spectra; the paper's begins at random.
fit_axes() { [[ $PRESET == paper ]] || fit axes; }
train_vae() {
  local born=()
  # The encoder stays as it was born, so that later stages need not wait for the decoder.
  [[ $PRESET == paper ]] || born=(--config.train.init_from="$BUNDLE/vae.safetensors"
    --config.loss.train_encoder=False)
  train vae "$AUDIO" "${born[@]}"
}
export_vae() { export_model vae; }
fit_latents() { fit latents; }
train_wav2vec() { train wav2vec "$AUDIO"; }
export_wav2vec() { export_model wav2vec; }
fit_semantic() { fit semantic; }
train_mulan() { train mulan "$AUDIO"; }
export_mulan() { export_model mulan; }
fit_style() { fit style; }
fit_prior() { fit prior; }
train_lm() {
  train lm "$ENCODED" \
    --config.conditioning.style_codebooks="$BUNDLE/mulan.safetensors"
}
export_lm() { export_model lm; }
train_dpd() { train dpd "$ENCODED"; }
export_dpd() { export_model dpd; }
evaluate() {
  extra evaluate
  run "$PYTHON" -m melody_jax.evaluate --config="configs/evaluate.py:all$SIZE" \
    --config.bundle="$BUNDLE" --config.data="$(each name=)" --config.out="$ROOT/evaluation" \
    "${MORE[@]}"
}

stage() {
  local mark=$ROOT/done/$1
  # encode looks for itself what is finished: a mark cannot tell that a model has changed since.
  if [[ -e $mark && -z ${FORCE:-} && $1 != encode ]]; then
    echo "$1: done already ($mark; FORCE=1 runs it again)" >&2
    return
  fi
  echo "== $1" >&2
  "$1"
  if [[ -z $DRY_RUN ]]; then
    mkdir -p "$ROOT/done"
    date -u +%FT%TZ > "$mark"
  fi
}

usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0"; }

[[ $# -gt 0 ]] || { usage; exit 2; }
for argument in "$@"; do
  # Looked for before any stage runs, because it may come last on the line.
  if [[ $argument == --dry_run ]]; then DRY_RUN=1; fi
done
# A folder of songs in place of a dataset is the usual mistake. Datasets still to be built are not
# there yet.
check_audio() {
  local path
  [[ -z $DRY_RUN && -z ${BUILDS:-} ]] || return 0
  for path in "${datasets[@]}"; do
    [[ -f $path/1.0.0/dataset_info.json ]] && continue
    echo "nano.sh: error: AUDIO: $path is no dataset (it has no 1.0.0/dataset_info.json): build one with" \
      "$PYTHON -m data.music_folder --folder=..." >&2
    exit 2
  done
}

for argument in "$@"; do
  case $argument in
    --dry_run) ;;
    -h | --help) usage ;;
    list) printf '%s\n' "${STAGES[@]}" ;;
    status) "$PYTHON" launch/status.py "$ROOT" "${STAGES[@]}" ;;
    all)
      check_audio
      for name in "${STAGES[@]}"; do stage "$name"; done
      ;;
    *)
      if [[ " ${STAGES[*]} " != *" $argument "* ]]; then
        echo "nano.sh: no stage '$argument'; stages: ${STAGES[*]}" >&2
        exit 2
      fi
      stage "$argument"
      ;;
  esac
done
