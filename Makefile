# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := constraints/lock.txt
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c $(LOCK)
MADE   := $(VENV)/.made
READY  := $(VENV)/.ready
TOOLS  := $(VENV)/.tools
WORKERS ?= 2

.PHONY: demo test faults faults-nightly check lint types imports docs bench clean lock

demo: $(READY)
	@$(BIN)/python -m scidyn demo

# one thread a worker, so that the workers do not fight for the cores; one file a worker, so that fits are shared
test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile

# what the package must survive, and how much of it did: a table per kind, then `faults survived: N of M`
faults: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v tests/faults -n $(WORKERS) --dist loadfile

# the same with the large numbers
faults-nightly: $(READY)
	@SCIDYN_FAULTS=nightly OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -o timeout=7200 tests/faults -n $(WORKERS) --dist loadfile

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
	$(BIN)/python benchmarks/ode.py

# A stamp is touched last, so what a kill left half is made again: `.made` for the empty
# environment, `.ready` for the packages, `.installing` for packages that may be half there.
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'scidyn needs Python 3.11 or newer; name one: make PYTHON=python3.12 demo'; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(BIN)/python: | $(MADE)
	@$(PYTHON) -m venv $(VENV)

# torch goes in first and alone, so that no looser request can choose another build
$(READY): pyproject.toml $(LOCK) | $(BIN)/python
	@if [ -e $(VENV)/.installing ]; then \
	  echo 'an earlier set-up was stopped: starting afresh'; \
	  $(PYTHON) -m venv --clear $(VENV) && touch $(MADE); \
	fi
	@echo 'setting up $(VENV): about 1.5 GB, a few minutes the first time'
	@touch $(VENV)/.installing
	@$(PIP) $(TORCH_ARGS) torch==2.13.0
	@$(PIP) -e '.[test]'
	@rm $(VENV)/.installing
	@touch $@

$(TOOLS): $(READY)
	@$(PIP) -e '.[test,check,docs]'
	@touch $@

lock: $(TOOLS)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > $(LOCK)

clean:
	rm -rf $(VENV) docs/_build docs/api/generated build dist .pytest_cache .mypy_cache .ruff_cache
