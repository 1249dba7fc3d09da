# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := constraints/lock.txt
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c $(LOCK)
READY  := $(VENV)/.ready
TOOLS  := $(VENV)/.tools
WORKERS ?= 2

.PHONY: demo test check lint types imports docs bench clean lock

demo: $(READY)
	@$(BIN)/python -m scidyn demo

# one thread a worker, so that the workers do not fight for the cores
test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --dist worksteal

check: lint types imports docs test

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TOOLS)
	$(BIN)/mypy

imports: $(TOOLS)
	$(BIN)/lint-imports

docs: $(TOOLS)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(READY)
	$(BIN)/python benchmarks/solve_ode.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'scidyn needs Python 3.11 or newer; name one: make PYTHON=python3.12 demo'; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# torch goes in first and alone, so that no looser request can choose another build;
# each stamp is touched last, so a killed set-up is simply run again.
$(READY): pyproject.toml $(LOCK) | $(BIN)/python
	@echo 'setting up $(VENV): about 1.5 GB, a few minutes the first time'
	@$(PIP) $(TORCH_ARGS) torch==2.13.0
	@$(PIP) -e '.[test]'
	@touch $@

$(TOOLS): $(READY)
	@$(PIP) -e '.[test,check,docs]'
	@touch $@

lock: $(TOOLS)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > $(LOCK)

clean:
	rm -rf $(VENV) docs/_build docs/api/generated build dist .pytest_cache .mypy_cache .ruff_cache
