# Everything a stranger needs: Python 3.11 or newer, and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint lock clean
help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Spinecho needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the locked packages (a minute or two the first time)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/.ready ## Live a simulated morning from order to archive (KEEP=1 leaves it running)
	@$(BIN)/spinecho demo $(if $(KEEP),--keep)

test: .venv/.ready ## Run every test
	@$(BIN)/python -m pytest -q

lint: .venv/.ready ## Style, types and the arrow of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock: ## Resolve the dependencies anew (needs uv)
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-strip-extras --all-extras --group dev pyproject.toml -o requirements.lock

clean: ## Remove the virtual environment and caches
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
