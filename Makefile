# Everything that one does with this checkout; `make help` lists it. Needs make and Python 3.11 or 3.12.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := emr_executor tests benchmarks dags jobs docs
# Name a Python to build .venv with: make PYTHON=/path/to/python3.12 demo
PYTHON ?=
# What `make simulate` lives through
SEED ?=
SEEDS ?= 0:100
WORKLOADS ?= 200
RESUME ?=
# For `make up`: another port; without the state of the last time; options, as emr_executor.max_clusters=4
PORT ?=
FRESH ?=
SET ?=
# More for pytest or the benchmark: make test ARGS="-k config", make bench ARGS="--only sqlite"
ARGS ?=

.PHONY: help demo up airflow down test test-all check simulate format lint types docs clean

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## 336,776 flights through two local clusters, one of which is lost
	@$(BIN)/python -m tests.demo_run.commands demo

up: $(STAMP) ## Start Airflow and a local EMR and leave them running (PORT= FRESH=1 SET=)
	@$(BIN)/python -m tests.demo_run.commands up $(if $(PORT),--port $(PORT)) $(if $(FRESH),--fresh) \
		$(foreach option,$(SET),--set '$(option)')

airflow: $(STAMP) ## A command in what `make up` started: ARGS="emr status"
	@$(BIN)/python -m tests.demo_run.commands airflow $(ARGS)

down: $(STAMP) ## Stop what `make up` started
	@$(BIN)/python -m tests.demo_run.commands down

test: lint types ## Lint, types, all tests but the slow matrices (under 20 minutes)
	@$(BIN)/python -m pytest -m "not matrix" -n 3 --no-loadscope-reorder $(ARGS)

test-all: lint types ## The same with the slow matrices
	@$(BIN)/python -m pytest -n 3 --no-loadscope-reorder $(ARGS)

check: lint types ## Lint, types, and the tests without real processes
	@$(BIN)/python -m pytest -m "not matrix and not processes" $(ARGS)

simulate: $(STAMP) ## Simulated worlds (SEED=7 or SEEDS=0:1000 WORKLOADS= RESUME=)
	@$(BIN)/python -m tests.simulator $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) \
		--workloads $(WORKLOADS) $(if $(RESUME),--resume $(RESUME))

bench: $(STAMP) ## Tasks a second through the store, on PostgreSQL and SQLite
	@$(BIN)/python -m benchmarks.store_rates $(ARGS)

format: $(STAMP) ## Let ruff write the formatting
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

lint: $(STAMP)
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --check --quiet $(CODE)

types: $(STAMP)
	@$(BIN)/mypy

docs: $(STAMP) ## Write the pages that are made from tables in code
	@$(BIN)/python docs/make_states.py
	@$(BIN)/python docs/make_configuration.py

clean: ## Remove .venv, the state of `make up`, caches, and what killed tests left
	@if [ -d .emr ] && [ -x $(BIN)/python ]; then $(BIN)/python -m tests.demo_run.commands down; fi
	@rm -rf $(VENV) .emr .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@for left in /tmp/emr-executor-*-* "$${TMPDIR:-/tmp}"/emr-executor-*-*; do \
		pid=$${left##*/emr-executor-}; kill -0 "$${pid%%-*}" 2>/dev/null || rm -rf "$$left"; done

$(STAMP): pyproject.toml constraints.txt .ci/install
	@PYTHON="$(PYTHON)" bash .ci/install $(VENV)
	@touch $@
