# The commands of the project; `make` alone lists them. Recipes are prerequisites, so adding a stage or a model is
# adding a file, and a misspelt one stops at once.

MODEL  ?= smollm2-135m
PY     := .venv/bin/python
STAMP  := .venv/.stamp
JOBS   ?= 2
# GPUS= ranks, one a GPU, that meet at PORT=: scripts/train.sh, in whose environment make puts both.
export GPUS PORT
MODELS  = $(sort $(patsubst configs/models/%.toml,%,$(wildcard configs/models/*.toml)))
STAGES  = $(sort $(patsubst configs/%.toml,train-%,$(wildcard configs/stage*.toml configs/factuality-*.toml)))

# DATA=, NAME=, SEED= and FROM= are short for overrides of the recipe; ARGS= takes any others.
OVERRIDES = $(if $(DATA),'--data.source=$(DATA)') $(if $(NAME),'--run.name=$(NAME)') \
            $(if $(SEED),'--run.seed=$(SEED)') $(if $(FROM),'--model.init_from=$(FROM)') $(ARGS)

# For `make eval`: CHECKPOINT= (or FROM=) is a model or run folder; without it the model is asked as it comes.
START = $(or $(CHECKPOINT),$(FROM))
EVAL_OVERRIDES = $(if $(DATA),'--data.source=$(DATA)') $(if $(NAME),'--run.name=$(NAME)') \
                 $(if $(SEED),'--eval.seed=$(SEED)') $(if $(START),'--model.init_from=$(START)') $(ARGS)

# A misspelt model or stage stops here, before .venv is made and with the names that there are.
ASKED = $(filter sft eval train train-%,$(MAKECMDGOALS))
UNKNOWN_STAGES = $(filter-out $(STAGES) train-factuality,$(filter train-%,$(MAKECMDGOALS)))
ifneq (,$(UNKNOWN_STAGES))
$(error no $(UNKNOWN_STAGES); there are: $(STAGES))
endif
ifneq (,$(ASKED))
ifeq (,$(filter $(MODEL),$(MODELS)))
$(error no model '$(MODEL)'; MODEL is one of: $(MODELS))
endif
endif

# Forked data workers and the tokenizers' own threads do not mix.
export TOKENIZERS_PARALLELISM = false

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format test test-unit test-gpu test-faults test-fuzz bench sft train train-factuality eval golden clean
.NOTPARALLEL:

help:  ## List the commands
	@echo 'usage: make COMMAND [MODEL=$(MODEL)] [DATA=] [NAME=] [SEED=] [FROM=] [CHECKPOINT=] [GPUS=] [PORT=] [ARGS="--section.key=value ..."]'
	@echo
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {sub("%", "stage1", $$1); printf "  %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'stages: $(STAGES)'
	@echo 'models: $(MODELS)'

setup:  ## Make .venv with what this machine can use; tries again what was missing
	scripts/setup.sh

$(STAMP): scripts/setup.sh $(wildcard requirements/*.txt)
	scripts/setup.sh

lock:  ## Resolve what pyproject.toml pins into requirements/*.txt, with hashes: make lock ARGS=--upgrade
	scripts/lock.sh $(ARGS)

sft: configs/sft.toml configs/models/$(MODEL).toml $(STAMP)  ## Warm up by supervised steps: make sft
	scripts/train.sh $(filter %.toml,$^) $(OVERRIDES)

train-%: configs/%.toml configs/models/$(MODEL).toml $(STAMP)  ## Train a stage: make train-stage1 MODEL=qwen3-8b
	scripts/train.sh $(filter %.toml,$^) $(OVERRIDES)

train: configs/stage1.toml configs/stage2.toml configs/models/$(MODEL).toml $(STAMP)  ## Stage 1, then stage 2 from its model; goes on after a kill
	$(PY) -m launch.pipeline $(filter configs/stage%,$^) -- $(filter configs/models/%,$^) $(OVERRIDES)

train-factuality: configs/factuality-fact.toml configs/factuality-fact-then-caution.toml configs/models/$(MODEL).toml $(STAMP)  ## First fact, then caution, on closed-book questions (docs/data-and-rewards.md)
	$(PY) -m launch.pipeline $(filter configs/factuality-%,$^) -- $(filter configs/models/%,$^) $(OVERRIDES)

eval: configs/models/$(MODEL).toml $(STAMP)  ## Trust-Score on held-out questions: make eval CHECKPOINT=runs/stage1-smollm2-135m
	$(PY) launch/evaluate.py $(filter %.toml,$^) $(EVAL_OVERRIDES)

# One thread: the tests' tensors are tiny, and threads that wait for each other are what makes a busy machine crawl. Two
# workers, each with whole files: what a file has started, vLLM for one, its tests share.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -q
test: $(STAMP)  ## Run all tests
	$(PYTEST) -n $(JOBS) --dist loadfile $(ARGS)

test-unit: $(STAMP)  ## Run the tests that start no process, in a minute
	$(PYTEST) -n $(JOBS) --dist loadfile tests/unit grpo rewards curriculum eval $(ARGS)

test-gpu: $(STAMP)  ## Try the engines' contracts and 20 steps on an NVIDIA GPU; without one it says so
	$(PY) benchmarks/gpu.py $(ARGS)

test-faults: $(STAMP)  ## Kill runs at KILLS=200 points, damage their checkpoints, resume, and print a table (half an hour)
	KILLS=$(or $(KILLS),200) STEPS=500 $(PYTEST) -rP tests/faults $(ARGS)

test-fuzz: $(STAMP)  ## Try FUZZ=10000 damaged recipes, data files, checkpoints and completions of each kind
	FUZZ=$(or $(FUZZ),10000) $(PYTEST) -n $(JOBS) tests/fuzz $(ARGS)

# The peer has a virtual environment of its own, with the build of torch that ours has.
.venv-trl/.stamp: benchmarks/trl-requirements.txt | $(STAMP)
	$(PY) -m venv --clear .venv-trl
	.venv-trl/bin/python -m pip install -r $< \
	  "torch==$$($(PY) -c 'from importlib.metadata import version; print(version("torch"))')"
	touch $@

bench: .venv-trl/.stamp  ## Our step and TRL's, interleaved, with the ratios: make bench ARGS="--rounds 5"
	$(PY) -m benchmarks.bench $(ARGS)

lint: $(STAMP)  ## Check style, formatting and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright

format: $(STAMP)  ## Format the code and fix what can be fixed by itself
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

golden: $(STAMP)  ## Compare our losses and gradients with an oracle's: make golden FILE=...
	$(PY) -m tests.helpers.golden_losses $(or $(FILE),tests/data/loss_golden.json)

clean:  ## Remove caches and build outputs; never runs/, .venv/ or .venv-trl/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./.venv -o -path ./.venv-trl -o -path ./runs -o -path ./.git \) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
