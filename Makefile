# make sanitize runs the main job on the built-in model; ARGS="--model.path DIR ..." points it elsewhere.
# Every target sets up .venv first, once: it is made when missing and updated when the two files it rests on change.

ARGS ?=
PART ?=
PYTEST_ARGS ?=
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made

# Idle threads that spin slow everything down where cores are few or shared.
RUN_ENV := OMP_WAIT_POLICY=PASSIVE RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false
# A test of Ray waits at times: three processes keep two cores busy. Each takes one file after another, in the order given.
SIDE_BY_SIDE := -n 3 --no-loadscope-reorder
TEST_ENV := $(RUN_ENV) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RAY_DEDUP_LOGS=1 RAY_COLOR_PREFIX=0 PYTHONUNBUFFERED=1

.DEFAULT_GOAL := help
.PHONY: setup sanitize test evidence check clean help

setup: $(STAMP) ## make .venv (2 GB, minutes) and install the project with its pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); } || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; install its venv module (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "installing pinned dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

sanitize: $(STAMP) ## run the main job: make sanitize ARGS="--model.path DIR --data.defense.path FILE ..."
	@$(RUN_ENV) $(BIN)/python pipelines/sanitize.py $(ARGS) || { code=$$?; \
		echo "pipelines/sanitize.py: exit code $$code (1 crash, 2 input, 3 gate refused or inconclusive, 130 interrupted)" >&2; exit $$code; }

test: $(STAMP) ## run the tests (real Ray and MLflow, real kills, no download; about 16 minutes on 2 cores)
	@$(TEST_ENV) $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) tests/integration tests/distributed tests/unit $(PYTEST_ARGS)

evidence: $(STAMP) ## measure everything docs/results.md states, resumable; make evidence PART=name for one part
	@$(RUN_ENV) $(BIN)/python -m benchmarks.evidence $(PART)

check: $(STAMP) ## lint, formatting, types, the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

clean: ## remove caches and build leftovers; outputs/, mlflow.db and .venv stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache .hypothesis .cache build dist *.egg-info
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18
