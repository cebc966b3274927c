# Every verb makes the virtual environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
PYTEST = $(BIN)/python -m pytest
MATRIX ?= python3.10 python3.11 python3.12 python3.13
BACKEND ?= nats
WORKERS ?= 2

.PHONY: help install demo test test-fast test-versions lint type fmt bench soak matrix clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make the virtual environment with everything in it

$(STAMP): setup.cfg setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all,dev,bench]'
	@touch $@

demo: $(STAMP) ## a real server, killed and frozen under load: nothing confirmed is lost (BACKEND=kafka: Apache Kafka)
	$(BIN)/python scripts/demo.py --backend $(BACKEND)

test: $(STAMP) ## all tests, on real brokers; in two processes, for most of them wait (WORKERS=0: in one)
	$(PYTEST) -n $(WORKERS) --dist worksteal

test-fast: $(STAMP) ## the tests that need no server
	$(PYTEST) tests/unit tests/races

test-versions: $(STAMP) ## the tests that need no server, on every Python of 3.10 to 3.13 that there is
	$(BIN)/python scripts/versions.py

lint: $(STAMP) ## style
	$(BIN)/ruff format --check eventbus tests scripts
	$(BIN)/ruff check eventbus tests scripts

type: $(STAMP) ## static types, strict
	$(BIN)/mypy eventbus

fmt: $(STAMP) ## format in place
	$(BIN)/ruff check --fix --quiet eventbus tests scripts || true
	$(BIN)/ruff format eventbus tests scripts

bench: $(STAMP) ## speed as ratios against nats-py and raw confluent-kafka, measured in the same run
	$(BIN)/python -m scripts.bench

soak: $(STAMP) ## long outage rounds
	$(BIN)/python scripts/soak.py

matrix: ## the tests on every Python of MATRIX that is installed
	@for python in $(MATRIX); do \
	  if command -v $$python >/dev/null && $$python -c '' 2>/dev/null; then \
	    $(MAKE) test PYTHON=$$python VENV=.venv-$$python || exit 1; \
	  else echo "$$python: not installed"; fi; \
	done

clean: ## remove everything that was made
	rm -rf .venv .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
