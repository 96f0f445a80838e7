# Everything a stranger needs: Python 3.11 or newer, and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SHELL := /bin/sh

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench docs lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## */\1|/' | awk -F'|' '{printf "make %-7s %s\n", $$1, $$2}'

# The stamp is older than the lock after a pull that changes it, and the environment follows.
# A link to an interpreter that has gone is no environment: it is made anew.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Spinecho needs Python 3.11 or newer, this is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| $(PYTHON) -m venv --clear .venv \
		|| { echo "No virtual environment could be made; on Debian, install python3-venv." >&2; exit 1; }
	@echo "Installing the locked packages (a few minutes the first time) ..."
	@# The lock is complete; a resolver would look past the pin of a package asked for with an extra.
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.ready ## A morning in the department, over the real protocols; KEEP=1 leaves it running
	@$(BIN)/spinecho demo $(if $(filter-out 0 no false,$(KEEP)),--keep)

# What needs a program from npm is skipped, and says so, where npm has no registry to ask.
%/peers/node_modules/.ready: %/peers/package-lock.json | .venv/.ready
	@$(BIN)/npm --prefix $(dir $<) ci --ignore-scripts --no-audit --no-fund --fetch-retries 1 --loglevel error >/dev/null \
		&& touch $@ || echo "npm could not install the programs of $(dir $<)." >&2

test: .venv/.ready tests/peers/node_modules/.ready ## Run every test
	@$(BIN)/python -m pytest -q -n auto --dist loadfile --ignore tests/journey
	@# Each of these starts a whole installation and wants the machine for itself.
	@$(BIN)/python -m pytest -q tests/journey

lint: .venv/.ready ## Style, types and the arrow of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: .venv/.ready benchmarks/peers/node_modules/.ready ## Measure it beside its peers
	@$(BIN)/python -m benchmarks all

docs: .venv/.ready ## Check that every setting, error code and command is documented
	@$(BIN)/python -m pytest -q tests/test_docs.py

lock: ## Resolve the dependencies anew (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --all-extras --group dev pyproject.toml -o requirements.lock

clean: ## Remove the virtual environment and the caches
	@rm -rf .venv tests/peers/node_modules benchmarks/peers/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
