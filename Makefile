# `make` alone says what there is.

PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
DEVICE ?= auto
MODEL ?= $(RUNS)/multi30k-en-de/teacher
TORCH ?= $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

# VENV= (empty) takes the Python that PYTHON names as it is and installs nothing.
ifneq ($(VENV),)
  BIN := $(VENV)/bin/
  SEQKD_PYTHON := $(VENV)/bin/python
  SETUP := $(VENV)/.installed
  FAIRSEQ := $(VENV)/.fairseq
  PIP := $(SEQKD_PYTHON) -m pip --disable-pip-version-check
else
  SEQKD_PYTHON := $(PYTHON)
endif
SEQKD := $(SEQKD_PYTHON) -m seqkd

.PHONY: help setup demo test test-plain torture check bench clean prepare teacher distill students exports report

help: ## this list
	@echo "usage: make [TARGET] [PIPELINE=NAME] [RUNS=folder] [DEVICE=cuda] [PYTHON=python3.12] [TORCH=requirement]"
	@echo
	@sed -n 's/^\([a-z][a-z -]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | \
	  awk -F '\t' '{ printf "  %-50s %s\n", $$1, $$2 }'
	@echo
	@echo "pipelines: $(PIPELINES)"

# --- set-up -------------------------------------------------------------------------------------------------------

setup: $(SETUP) ## a virtual environment with seqkd and its tools, in .venv

ifneq ($(VENV),)
$(SETUP): pyproject.toml constraints.txt tests/plugins/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: seqkd needs Python 3.10 or newer; PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "  to do: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	@{ grep -v '^torch==' constraints.txt; \
	   $(SEQKD_PYTHON) -c 'from importlib.metadata import version; print("torch==" + version("torch"))'; \
	 } > $(VENV)/constraints.txt
	$(PIP) install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	$(PIP) install --quiet --no-deps -e tests/plugins
	@touch $@

# With pip's build isolation fairseq would be compiled against a second torch.
$(FAIRSEQ): $(SETUP)
	@echo "Compiling fairseq, the reference of the search tests: about four minutes, once"
	$(PIP) install --quiet -c $(VENV)/constraints.txt numpy cython setuptools wheel
	$(PIP) install --quiet -c $(VENV)/constraints.txt --no-build-isolation -e '.[dev,fairseq]'
	@touch $@
endif

# --- pipelines ----------------------------------------------------------------------------------------------------

demo: $(SETUP) ## set-up, then the toy pipeline up to its report
	@if $(MAKE) --no-print-directory --question PIPELINE=toy report > /dev/null 2>&1; \
	  then echo "Nothing to do: everything is made."; \
	  else $(MAKE) --no-print-directory PIPELINE=toy report; fi
	@echo "The report: $(RUNS)/toy/report/report.html"

prepare teacher distill students exports report: ## a pipeline up to there: make PIPELINE=toy report

PIPELINES := $(sort $(basename $(notdir $(shell find pipelines -name '*.toml'))))

ifneq ($(filter prepare teacher distill students exports report $(RUNS)/%,$(MAKECMDGOALS)),)
  ifeq ($(PIPELINE),)
    $(error PIPELINE=NAME is missing; there are: $(PIPELINES). A path to your own .toml file will do, too)
  endif
  PIPELINE_FILE := $(firstword $(wildcard $(filter %.toml,$(PIPELINE))) $(shell find pipelines -name '$(PIPELINE).toml'))
  ifeq ($(PIPELINE_FILE),)
    $(error no pipeline '$(PIPELINE)'; there are: $(PIPELINES). A path to your own .toml file will do, too)
  endif
  PLAN := $(RUNS)/$(basename $(notdir $(PIPELINE_FILE)))/plan.mk

  # A clock that has been set back leaves files of the future, which Make would take for up to date: a plan among them
  # is made again, and that mends the others.
  $(shell find $(PLAN) -newermt now -exec touch -t 197001010000 {} + 2>/dev/null)

  $(PLAN): $(PIPELINE_FILE) $(wildcard $(patsubst %,seqkd/%/*.py,pipeline config models models/nat objectives)) | $(SETUP)
	@$(SEQKD) plan $(PIPELINE_FILE) --runs $(RUNS) > /dev/null

  # A plan that was made from another file of the same name is taken for old: `seqkd plan` refuses or replaces it.
  ifneq ($(abspath $(shell sed -n '1s/^# Made from \(.*\) by .*/\1/p' $(PLAN) 2>/dev/null)),$(abspath $(PIPELINE_FILE)))
    $(shell test ! -e $(PLAN) || touch -t 197001010000 $(PLAN))
  endif

  include $(PLAN)
endif

# --- for developers -----------------------------------------------------------------------------------------------

# One thread a process: there are as many processes as cores.
test: $(SETUP) $(FAIRSEQ) ## set-up, then every test
	OMP_NUM_THREADS=1 $(SEQKD_PYTHON) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-plain: $(SETUP) $(FAIRSEQ) ## every test without the CPU kernels, as on a machine that has no compiler
	CXX=/nonexistent OMP_NUM_THREADS=1 $(SEQKD_PYTHON) -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

torture: $(SETUP) ## every fault of docs/reliability.md, whose table it writes: bounded to 20 minutes
	OMP_NUM_THREADS=1 timeout 1200 $(SEQKD_PYTHON) -m pytest --torture --numprocesses 2 --dist worksteal \
	  tests/torture tests/fuzz tests/unit/executors tests/unit/stages

check: $(SETUP) ## format, lint, types, import contract, unit tests
	$(SEQKD_PYTHON) -m ruff format --check .
	$(SEQKD_PYTHON) -m ruff check .
	$(SEQKD_PYTHON) -m mypy
	$(BIN)lint-imports
	OMP_NUM_THREADS=1 $(SEQKD_PYTHON) -m pytest -m 'not slow' tests/unit \
	  --numprocesses auto --maxprocesses 8 --dist loadfile

bench: $(SETUP) $(FAIRSEQ) ## speed beside other systems; MODEL=folder: a teacher of multi30k-en-de
	$(SEQKD_PYTHON) tests/bench/run.py --model $(MODEL) --data $(MODEL)/../raw
	$(SEQKD_PYTHON) tests/bench/techniques.py --model $(MODEL) --corpus $(MODEL)/../gold/train
	$(SEQKD_PYTHON) tests/bench/train.py --data $(MODEL)/../raw
	$(SEQKD_PYTHON) tests/bench/selecting.py --kbest $(MODEL)/../kbest/beam5 --gold $(MODEL)/../gold/train

clean: ## remove what set-up and checks made, and with PIPELINE=NAME that pipeline's results
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	$(if $(VENV),rm -rf $(VENV))
	$(if $(PIPELINE),rm -rf $(RUNS)/$(basename $(notdir $(PIPELINE))))
