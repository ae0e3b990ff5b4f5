# make up      a 4-bit model behind the gateway, on this machine
# make down    stop it
# make test    every check and every test, real engines included

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Two test files at a time, one where there is one core.
SIDE_BY_SIDE := -n auto --maxprocesses 2 --dist loadfile
# Not these: the first two measure time, and a fleet takes every core.
ALONE := tests/integration/gateway tests/integration/mock tests/integration/fleet
SLOWEST := --durations 40 --durations-min 5

.PHONY: help install up down check unit integration e2e test bench dist clean

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml Makefile
	@command -v $(PYTHON) >/dev/null \
	  || { echo "error: there is no $(PYTHON). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	  || { echo "error: tri-serve runs on Python 3.11 to 3.13; $(PYTHON) is" \
	       "$$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "error: $(PYTHON) has no venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Installing tri-serve and what it is tested with into $(VENV), which takes half a minute:"
	@test -x $(BIN)/python || { echo "  a virtual environment …"; $(PYTHON) -m venv $(VENV); }
	@echo "  $$(grep -c '^[a-z].*==' requirements/dev.txt) pinned packages …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@echo "  tri-serve …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

up: install
	@$(BIN)/tri-serve up
	@command -v tri-serve >/dev/null || printf '\nThe command is %s; to have it as tri-serve: source %s\n' \
	  $(BIN)/tri-serve $(BIN)/activate

down: install
	@$(BIN)/tri-serve down

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache > $(VENV)/lint-imports.out || { cat $(VENV)/lint-imports.out; exit 1; }
	@grep Contracts $(VENV)/lint-imports.out; rm $(VENV)/lint-imports.out

unit: install
	$(BIN)/pytest tests/unit $(SIDE_BY_SIDE)

integration: install
	$(BIN)/pytest tests/integration $(ALONE:%=--ignore %) $(SIDE_BY_SIDE)
	$(BIN)/pytest $(ALONE)

e2e: install
	$(BIN)/pytest tests/e2e

# Quick checks first: a mistake should show in a minute, not after the engines have started.
test: check
	$(BIN)/pytest tests/unit $(SIDE_BY_SIDE) $(SLOWEST)
	$(BIN)/pytest tests/integration $(ALONE:%=--ignore %) $(SIDE_BY_SIDE) $(SLOWEST)
	$(BIN)/pytest $(ALONE) tests/e2e $(SLOWEST)

bench: install
	$(BIN)/python -m benchmarks.gateway

dist: install
	$(BIN)/python -m hatchling build

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
