# Two commands are all a newcomer needs: `make demo` and `make test`. Both set themselves up.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A CUDA machine takes vLLM's CUDA build; everything else takes the CPU build.
HARDWARE ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
EXTRAS := $(HARDWARE),encoder,fit,dev
PROFILE ?= small
SUITE ?= world
TESTS ?= tests
# Test processes. Two fit on 2 cores and 16 GiB: engines and trainings run on one thread each.
WORKERS ?= 2

.PHONY: help setup demo test lint bench clean

help:
	@echo "make demo   train two small models, fit a guard, serve it in vLLM, show before and after"
	@echo "make test   run the tests"
	@echo "make lint   ruff and mypy"
	@echo "make bench  SUITE=$(SUITE) PROFILE=$(PROFILE): compare methods, write out/bench/"

setup: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
# Compiled at once: dozens of processes import all of it, and where Python is told not to write bytecode, each would compile it again.
# A CPU torch comes from pip's own find-links where that is set up, else from PyTorch's CPU index.
	links="$$($(PYTHON) -m pip config get global.find-links 2>/dev/null || true)"; \
	if [ "$(HARDWARE)" = gpu ]; then backend="--torch-backend auto"; \
	elif ls $$links/torch-*cpu* >/dev/null 2>&1; then export UV_FIND_LINKS="$$links"; backend=""; \
	else backend="--torch-backend cpu"; fi; \
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --compile-bytecode $$backend -e '.[$(EXTRAS)]'
	touch $@

demo: $(READY)
	$(BIN)/unlearn-guard demo --out out/demo

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/unlearn-guard bench --suite $(SUITE) --profile $(PROFILE) --out out/bench/report.json

clean:
	rm -rf out build .pytest_cache .mypy_cache .ruff_cache
