# Everything happens in .venv; nothing else on the machine is changed.
#   make demo      transcribe real recordings with the defaults
#   make test      lint, format, types and the tests that finish in minutes
#   make test-all  the slow tests too
PYTHON ?= python3
BIN := .venv/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all check clean

demo: .venv/core
	$(BIN)/python examples/demo.py

# Two processes, as most tests wait for a while; the tests of a file share what they have loaded.
test: check
	$(BIN)/pytest -n 2 --dist loadfile

test-all: check
	$(BIN)/pytest -m "slow or not slow"

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Stenopool needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/core: .venv/python pyproject.toml setup.py constraints.txt $(wildcard src/stenopool/engines/*/kernels/*)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .cache demo-bucket
