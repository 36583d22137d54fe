#!/usr/bin/env bash
# Trains on TPU slices of a GKE cluster, with the tool xpk.
#
#   export PROJECT=my-project ZONE=us-east5-a CLUSTER=melody TYPE=v6e-16
#   export IMAGE=us-docker.pkg.dev/my-project/my-repository/melody_jax
#   launch/tpu_xpk.sh cluster          make the cluster, with SLICES slices
#   launch/tpu_xpk.sh image            build launch/Dockerfile from this checkout, and push it
#   launch/tpu_xpk.sh run --config=configs/lm.py:paper --workdir=gs://BUCKET/lm \
#     --config.data.path=/data/encoded
#   launch/tpu_xpk.sh list             list the workloads of the cluster
#   launch/tpu_xpk.sh stop             end the workload NAME
#   launch/tpu_xpk.sh delete           delete the cluster; it costs money until then
#   launch/tpu_xpk.sh --dry_run VERB ...    print the commands, run nothing
#
# A run that loses a slice or is preempted starts again by itself, from its last checkpoint.
# Settings are environment variables:
#
#   PROJECT       Google Cloud project
#   ZONE          zone of the cluster
#   CLUSTER       name of the cluster: small letters, digits and dashes
#   TYPE          kind and size of a slice: v5litepod-16, v5p-32, v6e-16, ...
#   SLICES        number of slices that train together                  (default 1)
#   CAPACITY      on-demand, spot, flex or reservation=NAME             (default on-demand)
#   NAME          name of the workload                                  (default melody-jax)
#   IMAGE         name of the container image
#   STORAGE       storages to mount, made by `xpk storage attach`; comma-separated
#   MAX_RESTARTS  largest number of restarts                            (default 50)
#   GRACE         seconds that a run has to save when it must stop      (default 120)
#   CLUSTER_ARGS  further arguments for the cluster, for example "--enable-gcsfuse-csi-driver"
#   WORKLOAD_ARGS further arguments for the workload, for example "--priority=high"
#   EXTRAS        extras of the package in the image                    (default train,tpu)
#   MODULE        melody_jax.train, melody_jax.encode, ...              (default melody_jax.train)
#   LIBTPU_INIT_ARGS  flags of the TPU compiler                    (default: tpu_flags in common.sh)
source "$(dirname "$0")/common.sh"
parse "$@"
verb=${ARGUMENTS[0]:-}
arguments=("${ARGUMENTS[@]:1}")
[[ -n $verb ]] || { usage; exit 2; }
SLICES=${SLICES:-1} NAME=${RUN:-${NAME:-melody-jax}} MODULE=${MODULE:-melody_jax.train}

on_cluster() { # words of xpk's verb, then its options
  need xpk "pip install xpk, in an environment of its own"
  want PROJECT my-project; want ZONE us-east5-a; want CLUSTER melody
  run xpk "$@" --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE"
}

# Kubernetes restricts names. xpk checks them too, but only after minutes of other work.
check_name() { # setting
  [[ ${!1} =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ && ${#1} -le 40 ]] ||
    die "$1 is '${!1}': small letters, digits and dashes, at most 40"
}

cluster() {
  want TYPE v6e-16
  local capacity=${CAPACITY:-on-demand}
  [[ $capacity == @(on-demand|spot|flex|reservation=?*) ]] ||
    die "CAPACITY is '$capacity': on-demand, spot, flex or reservation=NAME"
  on_cluster cluster create --tpu-type="$TYPE" --num-slices="$SLICES" "--$capacity" ${CLUSTER_ARGS:-}
}

image() {
  want IMAGE us-docker.pkg.dev/my-project/my-repository/melody_jax
  need docker "https://docs.docker.com/engine/install, then gcloud auth configure-docker"
  run docker build --platform=linux/amd64 --file="$ROOT/launch/Dockerfile" \
    --build-arg=EXTRAS="${EXTRAS:-train,tpu}" --tag="$IMAGE" "$ROOT"
  run docker push "$IMAGE"
}

train() {
  want TYPE v6e-16; want IMAGE us-docker.pkg.dev/my-project/my-repository/melody_jax
  check_name NAME
  check_config ${arguments[@]+"${arguments[@]}"}
  local storage name
  storage=()
  for name in ${STORAGE//,/ }; do storage+=(--storage="$name"); done
  # With exec the signal that announces the end reaches the Python process, which then saves. xpk
  # restarts after a status of 127 or more by itself; 75 means "try again" too.
  on_cluster workload create --workload="$NAME" --tpu-type="$TYPE" --num-slices="$SLICES" \
    --docker-image="$IMAGE" --max-restarts="${MAX_RESTARTS:-50}" --restart-on-exit-codes=75 \
    --termination-grace-period-seconds="${GRACE:-120}" ${storage[@]+"${storage[@]}"} \
    ${WORKLOAD_ARGS:-} \
    --command="cd /melody_jax && ulimit -c 0 && export LIBTPU_INIT_ARGS=$(quoted "$(tpu_flags)") && \
exec python -m $MODULE $(quoted "${arguments[@]}")"
}

[[ -z ${CLUSTER:-} ]] || check_name CLUSTER
STORAGE=${STORAGE:-}
case $verb in
  cluster | image) "$verb" ;;
  run) train ;;
  list) on_cluster workload list ;;
  stop) on_cluster workload delete --workload="$NAME" ;;
  delete) on_cluster cluster delete ;;
  *) die "no verb '$verb': cluster, image, run, list, stop or delete" ;;
esac
