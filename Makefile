# `make demo`: the closed loop against a simulated feed; needs Python alone.
# `make test`: lint, types, import contracts and all tests, with real Redis, Apache Kafka and Prometheus where they can be had.
# `EXTRAS=,nas` tests the design of ranking networks too (PyTorch: 5 GB), `EXTRAS=,peers` the arena's heavy peers: 6 GB.

PYTHON ?= python3
BIN := .venv/bin
# Compiling all of PyTorch's modules takes a minute; those that are used are compiled when they are.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Two processes, each with services of its own; one where all tests share the Redis that was named: every test empties it.
PYTEST_ARGS ?= --numprocesses $(if $(TRIMTAB_TEST_REDIS),0,2) --dist loadfile --no-loadscope-reorder
# Two processes of as many threads as cores get in each other's way: a wide decision takes six times as long.
test: export OMP_NUM_THREADS ?= 1
EXTRAS ?=
DEMO_ARGS ?=

.PHONY: demo test lint format services clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/trimtab demo $(DEMO_ARGS)

test: lint services
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: .venv/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.developer
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

services: .venv/.created
	$(BIN)/python -m tests.services.install

.venv/.installed: pyproject.toml .venv/.created
	$(PIP) --editable .
	@touch $@

.venv/.developer: pyproject.toml .venv/.created
	$(PIP) --editable '.[test,dev$(EXTRAS)]'
	@touch $@ .venv/.installed

.venv/.created:
	@PYTHON='$(PYTHON)' sh .ci/make-venv .venv
	@touch $@

clean:
	rm -rf .venv .services .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
