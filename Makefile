# `make demo` and `make test` set everything up on a bare machine with Python 3.11 or later, then run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint site environment

demo: $(VENV)/.demo
	$(BIN)/python train.py --config=configs/digits.py --workdir=runs/digits
	$(BIN)/python certify.py --workdir=runs/digits

test: $(VENV)/.test
	$(BIN)/python -m pytest -q --numprocesses=auto --dist=loadfile

lint: $(VENV)/.test
	$(BIN)/python -c "from lipjax.system import versions; print(versions.here())"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation, in site/; every warning is an error.
site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

environment: $(VENV)/.test

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
