SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PROFILE ?= all
STACK ?= local
RUN := $(VENV)/bin/python
CACHE := $(or $(LLM_SERVING_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llm-serving)
export PYTHONDONTWRITEBYTECODE := 1
export MYPY_CACHE_DIR := $(CACHE)/mypy
export RUFF_CACHE_DIR := $(CACHE)/ruff

.PHONY: help up down clean test check unit env bench load tune lock schema golden

help: ## Show this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(VENV)/.complete: requirements.lock
	@echo "installing the Python dependencies into $(VENV)" >&2
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "error: $(PYTHON) is Python %d.%d; this project needs 3.11 (make PYTHON=/path/to/python3.11)" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV) || { echo "error: $(PYTHON) can't make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	touch $@

up: $(VENV)/.complete ## From a bare machine to served, smoke-tested models (again: only what is left to do); PROFILE=<models or recipes, by commas>
	@$(RUN) -m localcluster.local_stack up --profile $(PROFILE)

down: $(VENV)/.complete ## Remove the stack and the cluster; the caches stay
	@$(RUN) -m localcluster.local_stack down

clean: down ## `down`, and remove caches and the virtual environment too
	@rm -rf $(CACHE) $(VENV)

test: $(VENV)/.complete ## Every test, the end-to-end ones on the real cluster included
	@$(RUN) -m localcluster.local_stack test

check: $(VENV)/.complete ## Lint, formatting and types
	@$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy .
	$(RUN) -m stacks schema --check

unit: $(VENV)/.complete ## The tests that need no cluster
	@$(VENV)/bin/pytest tests/unit tests/golden

env: $(VENV)/.complete ## What a shell needs to run pulumi and kubectl by hand: eval "$$(make -s env)"
	@$(RUN) -m localcluster env

bench: $(VENV)/.complete ## Measure the FasterTransformer conversion on a checkpoint of bloom-560m's shape
	@$(RUN) -m tests.bench.convert

load: $(VENV)/.complete ## Load-test a served model: make load MODEL=tiny-llama [CONCURRENCY=1,2,4,8,16] [OUT=dir] [PROBE=name] [ARGS=…]
	@$(RUN) -m stacks.load_target sweep --stack $(STACK) --model $(or $(MODEL),$(error name the model: make load MODEL=tiny-llama)) \
	  $(if $(PROBE),--probe "$(PROBE)") $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(OUT),--out $(OUT)) $(ARGS)

tune: $(VENV)/.complete ## Search a model's settings under a latency bound: make tune MODEL=two-models SERVED=tiny-opt [P99_MS=2000] [YES=1] [OUT=dir] [ARGS=…]
	@$(RUN) -m stacks.load_target tune --stack $(STACK) --model $(or $(MODEL),$(error name the model: make tune MODEL=two-models)) \
	  $(if $(SERVED),--served-model $(SERVED)) $(if $(PROBE),--probe "$(PROBE)") $(if $(P99_MS),--p99-ms $(P99_MS)) $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) \
	  $(if $(YES),--yes) $(if $(OUT),--out $(OUT)) $(ARGS)

golden: $(VENV)/.complete ## Write the golden files again, to be read in a diff
	@UPDATE_GOLDEN=1 $(VENV)/bin/pytest -q tests/golden

schema: $(VENV)/.complete ## Write the stack files' JSON schema again
	@$(RUN) -m stacks schema

lock: $(VENV)/.complete ## Resolve the dependencies again and lock them with hashes
	@$(VENV)/bin/uv pip compile pyproject.toml --group dev --python-version 3.11 --generate-hashes --no-emit-index-url --quiet --output-file requirements.lock
