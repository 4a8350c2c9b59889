# Each target makes what it needs: a fresh clone wants nothing but Python >= 3.11, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: bench history test test-all venv app report kit

bench: venv  ## Measure the asv matrix on the current commit with asv, then make the report.
	$(BIN)/metagrad bench
	$(BIN)/metagrad report
	@echo "The dashboard: make app"

history: venv  ## Measure the commits of RANGE (v1..main, NEW) that have no results, then make asv's site.
	$(BIN)/metagrad bench $(or $(RANGE),NEW)
	$(BIN)/asv publish

test: venv  ## Lint, types and the quick tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

test-all: venv  ## The slow tests, which `make test` leaves out.
	$(PYTEST) -m slow

venv: $(VENV)/installed  ## Set up .venv.

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

app: venv  ## Open the dashboard on localhost.
	$(BIN)/streamlit run app.py

report: venv  ## Write the static report.
	$(BIN)/metagrad report

kit: venv  ## Collect what a machine without a package registry needs to measure (docs/gpu.md).
	tools/kit.sh
