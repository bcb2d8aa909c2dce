# make run, make test: both set up everything they need in .venv. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help run test check race soak format clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: .venv/.installed ## train a small GPT on the default text and let it write (about 2 minutes)
	$(BIN)/python gpt.py

test: .venv/.installed-dev ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

check: .venv/.installed-dev ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

race: .venv/.installed ## a model as good as nanoGPT's example, timed; make race NANOGPT=PATH runs nanoGPT beside it
	$(BIN)/python benchmarks/race.py $(if $(NANOGPT),--nanogpt $(NANOGPT))

soak: .venv/.installed-dev ## the reliability suites in full: hours; stop and start as you like
	$(BIN)/python -m reliability

format: .venv/.installed-dev ## put the code into its standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and everything built (runs/ stays)
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed
