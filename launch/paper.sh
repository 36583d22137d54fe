#!/usr/bin/env bash
# The paper recipe: from 24 kHz audio to a bundle, each stage on the TPU slice that suits it.
#
#   launch/paper.sh list                  the stages: slice, number of slices, rows, parts, steps
#   launch/paper.sh --dry_run all         print the commands of all stages, run nothing
#   launch/paper.sh train_lm              start one stage; extra arguments go to its command
#
# Pods are rented by the hour and end by themselves, so a stage is started when you have seen the one
# before it end; the same command again goes on from its last checkpoint. docs/scale.md has what each
# stage costs. Training and encoding go through LAUNCHER; exports, fits and the evaluation run here,
# on one host that sees the data. Settings are environment variables:
#
#   AUDIO        datasets of audio       as hosts see them, with commas   (default /data/audio)
#   ENCODED_TO   where encode writes; may be a bucket                     (default $RUNS/encoded)
#   ENCODED      the same as hosts see it: a disk or a mount, no bucket   (default /data/encoded)
#   RUNS         checkpoints and logs of all stages, a bucket             (example gs://BUCKET/paper)
#   BUNDLE       the finished models; may be a bucket                     (default $RUNS/bundle)
#   AST, BERT    directories of the public checkpoints that MuLan begins with (default: random)
#   LAUNCHER     script that starts a command on all hosts                (default launch/tpu_xpk.sh)
#   CLUSTER      stem of xpk's cluster names: CLUSTER-v5litepod-64, ...   (default melody)
#   PYTHON       of the stages that run here                              (default .venv/bin/python)
#   and those of the launcher: PROJECT, ZONE, IMAGE, STORAGE, ...
source "$(dirname "$0")/common.sh"
cd "$ROOT"
parse "$@"
set -- ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
PYTHON=$(home "${PYTHON:-.venv/bin/python}")
LAUNCHER=$(home "${LAUNCHER:-launch/tpu_xpk.sh}")
AUDIO=${AUDIO:-/data/audio} ENCODED=${ENCODED:-/data/encoded} CLUSTER=${CLUSTER:-melody}
SHARDS=${SHARDS:-8192} # of a split: 31 h each of 257,000; a host holds one at a time

# stage | slice | slices | rows of a step | parts of a batch | steps
# Rows and steps are those of configs/*.py:paper, which also say how parameters lie over a slice.
# Slices are those that melody_jax.plan was asked about (launch/README.md), but for train_vae, which
# is an estimate: its network is not planned.
TABLE="\
train_vae      v5litepod-64   1   256  1  500000
train_wav2vec  v5litepod-64   1   256  1  400000
train_mulan    v5litepod-64   1  4096  1  200000
encode         v5litepod-256  1     -  -       -
train_lm       v5litepod-256  1  2048  1   50000
train_dpd      v5litepod-256  1   256  1  300000"
STAGES=(train_vae export_vae fit_latents
  train_wav2vec export_wav2vec fit_semantic
  train_mulan export_mulan fit_style fit_prior
  encode
  train_lm export_lm train_dpd export_dpd
  evaluate)

here() { # module, arguments
  run "$PYTHON" -m "melody_jax.$1" "${@:2}"
}

pod() { # stage, module, arguments: on the stage's slices
  local type slices
  read -r _ type slices _ < <(grep "^$1 " <<< "$TABLE")
  NAME=melody-${1//_/-} TYPE=$type SLICES=$slices MODULE=melody_jax.$2 CLUSTER=$CLUSTER-$type \
    DRY_RUN=$DRY_RUN bash "$LAUNCHER" run "${@:3}"
}

train() { # model, datasets, arguments
  local rows parts steps
  read -r _ _ _ rows parts steps < <(grep "^train_$1 " <<< "$TABLE")
  pod "train_$1" train --config="configs/$1.py:paper" --workdir="$RUNS/$1" \
    --config.data.path="$2" --config.train.batch_size="$rows" --config.train.accumulate="$parts" \
    --config.train.steps="$steps" "${@:3}"
}

export_model() { # model, arguments
  here export --config="configs/$1.py:paper" --workdir="$RUNS/$1" --config.export.bundle="$BUNDLE" \
    "${@:2}"
}

fit() { # what, arguments
  here fit --config="configs/fit.py:$1" --config.bundle="$BUNDLE" --config.data.path="$AUDIO" "${@:2}"
}

# Every dataset of AUDIO has one of its name among the encoded.
encoded() {
  local path list=()
  for path in ${AUDIO//,/ }; do list+=("$ENCODED/$(basename "$path")"); done
  (IFS=, && printf '%s' "${list[*]}")
}

stage() { # stage, arguments
  local path born=()
  case $1 in
    train_vae | train_wav2vec) train "${1#train_}" "$AUDIO" "${@:2}" ;;
    train_mulan)
      [[ -z ${AST:-} ]] || born+=(--config.model.music_init="$AST")
      [[ -z ${BERT:-} ]] || born+=(--config.model.text_init="$BERT")
      train mulan "$AUDIO" ${born[@]+"${born[@]}"} "${@:2}"
      ;;
    train_lm)
      train lm "$(encoded)" --config.conditioning.style_codebooks="$BUNDLE/mulan.safetensors" "${@:2}"
      ;;
    train_dpd) train dpd "$(encoded)" "${@:2}" ;;
    export_*) export_model "${1#export_}" "${@:2}" ;;
    fit_*) fit "${1#fit_}" "${@:2}" ;;
    encode)
      for path in ${AUDIO//,/ }; do
        pod encode encode --config=configs/encode.py --config.source="$path" \
          --config.out="$ENCODED_TO/$(basename "$path")" --config.bundle="$BUNDLE" \
          --config.shards="$SHARDS" "${@:2}"
      done
      ;;
    evaluate)
      here evaluate --config=configs/evaluate.py:all --config.bundle="$BUNDLE" \
        --config.data="$AUDIO" --config.out="$RUNS/evaluation" "${@:2}"
      ;;
  esac
}

[[ $# -gt 0 ]] || { usage; exit 2; }
if [[ $1 == list ]]; then
  printf '%-14s %-14s %6s %5s %5s %8s\n' stage slice slices rows parts steps
  for name in "${STAGES[@]}"; do
    grep "^$name " <<< "$TABLE" || printf '%-14s %s\n' "$name" "this machine"
  done
  exit
fi
[[ $1 == all || " ${STAGES[*]} " == *" $1 "* ]] || die "no stage '$1'; stages: ${STAGES[*]}"
want RUNS gs://BUCKET/paper
BUNDLE=${BUNDLE:-$RUNS/bundle} ENCODED_TO=${ENCODED_TO:-$RUNS/encoded}
[[ $ENCODED != *://* && $AUDIO != *://* ]] ||
  die "AUDIO and ENCODED are read by memory map: mount the bucket, and name the mount"
if [[ $1 == all ]]; then
  [[ -n $DRY_RUN ]] || die "stages are started one at a time, each after the end of the one before"
  for name in "${STAGES[@]}"; do stage "$name" "${@:2}"; done
else
  stage "$@"
fi
