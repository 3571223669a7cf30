#!/usr/bin/env bash
# Train a recipe: scripts/train.sh RECIPE.toml ... in one process, or by DeepSpeed's launcher with a rank on each of
# several GPUs: GPUS of them, by default all that are visible. PORT is where the ranks meet. CUDA_VISIBLE_DEVICES is read
# here, since neither nvidia-smi nor, beside a number of GPUs, DeepSpeed's launcher reads it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
visible=${CUDA_VISIBLE_DEVICES:-}
IFS=, read -ra ids <<<"$visible"
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then found=${#ids[@]}; else found=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true); fi
gpus=${GPUS:-$found}
[ "$gpus" -gt 1 ] || exec "$root/.venv/bin/python" "$root/launch/train.py" "$@"

which=(--num_gpus "$gpus")
if [ -n "$visible" ]; then
  [ "$gpus" -le "${#ids[@]}" ] || { echo "error: GPUS=$gpus, and CUDA_VISIBLE_DEVICES=$visible shows ${#ids[@]}" >&2; exit 2; }
  [[ $visible =~ ^[0-9,]+$ ]] ||
    { echo "error: CUDA_VISIBLE_DEVICES=$visible: DeepSpeed's launcher takes numbers only, such as 0,1; or GPUS=1" >&2; exit 2; }
  which=(--include "localhost:$(IFS=,; echo "${ids[*]:0:gpus}")")
fi
exec "$root/.venv/bin/deepspeed" --quiet "${which[@]}" ${PORT:+--master_port "$PORT"} "$root/launch/train.py" "$@"
