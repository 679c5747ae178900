# One virtual environment, made here; every target installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help pareto reproduce bench lint test test-all docs clean
help:
	@echo "make pareto     the main job: FLOPs against MCC, table and figure in results/ (about 8 minutes)"
	@echo "make reproduce  the paper's three settings at full fidelity (about 25 minutes; resumes)"
	@echo "make bench      solvers and training beside their peers (20 minutes; resumes)"
	@echo "make test       lint, types and the test suite"
	@echo "make test-all   the same with the slow tests"
	@echo "make docs       the API reference, as web pages in site/"
	@echo "make clean      remove the virtual environment and caches; results/ stays"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python >= 3.11 is needed, this is %s; run make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/experiments.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[experiments]"
	@touch $@

$(VENV)/test.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $(VENV)/experiments.stamp $(VENV)/docs.stamp $@

$(VENV)/docs.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

$(VENV)/bench.stamp: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@touch $(VENV)/experiments.stamp $@

pareto: $(VENV)/experiments.stamp
	$(BIN)/python -m experiments.pareto
	$(BIN)/python -m experiments.natural_images

reproduce: $(VENV)/experiments.stamp
	$(BIN)/python -m experiments.known_codes
	$(BIN)/python -m experiments.known_dictionary
	$(BIN)/python -m experiments.unknown_dictionary

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.training

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n $(WORKERS)

docs: $(VENV)/docs.stamp
	$(BIN)/python docs/build_api.py site
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
