#!/usr/bin/env bash
# The same training on every host of a Cloud TPU slice. Run it where gcloud is set up; see docs/guides/launching.md.
#
#   bash tools/launch/tpu_pod.sh NAME ZONE WORKDIR [--config.key=value ...]
#   CONFIG=experiments/mae/imagenet_h.py bash tools/launch/tpu_pod.sh my-slice us-east5-a /mnt/runs/mae-h \
#     --config.data.source=/mnt/data/imagenet --config.mesh.fsdp=16
#
# Once before: on every host (ssh --worker=all) this repository at ~/segjax, `bash tools/environment tpu`, and the same
# shared file system, so that WORKDIR is one folder for all.
#
#   follow:  gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='tail -f segjax.log'
#   stop:    gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 --command='pkill -TERM -o -f "bin/python.*segjax train"'
#            (one host is enough: all save and stop at the same step)
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
name=$1 zone=$2 workdir=$3
shift 3

train=(.venv/bin/segjax train --distributed --config="${CONFIG:-experiments/mae/imagenet_b.py}" --workdir="$workdir" "$@")
# 75: another process was lost, 137: this one was killed. Both begin again, and meet within --join_timeout. Anything else
# (done; stopped and saved; an error that would come again) is the end. Detached, so that it outlives the connection.
loop="cd ~/segjax && while :; do $(printf '%q ' "${train[@]}"); status=\$?; echo \"status \$status\""
loop+="; case \$status in 75|137) sleep 5;; *) break;; esac; done"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="nohup setsid bash -c $(printf '%q' "$loop") > ~/segjax.log 2>&1 < /dev/null &"
