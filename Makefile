# make demo: set everything up, simulate a small survey, process it raw to release, score it against truth.
# make test: set everything up, run all tests.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo_survey

.PHONY: demo test lint generated setup wheel

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	rm -rf $(DEMO)
	$(BIN)/skyquilt warm
	$(BIN)/skyquilt init $(DEMO) --template demo
	$(BIN)/skyquilt simulate $(DEMO)
	$(BIN)/skyquilt run $(DEMO)
	$(BIN)/skyquilt scorecard $(DEMO)

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/python -m pytest -q tests/workflow/test_rules.py tests/test_imports.py

generated: setup
	$(BIN)/python -m skyquilt.workflow.generated

wheel: setup
	$(BIN)/python -m build --wheel --no-isolation
