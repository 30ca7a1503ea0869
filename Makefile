# make repro   the whole pipeline; makes .venv on the first call
# make test    the tests;           both need Python 3.11+, git and make, nothing else
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

.PHONY: repro test test-all lint format

repro: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

test: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

test-all: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m ''

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
