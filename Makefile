# Two commands matter: `make book` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
STAMP  := $(VENV)/.installed
BOOK   := _build/html/index.html

.DEFAULT_GOAL := help
.PHONY: help book test test-fast lab bench constraints format clean clean-all

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nslab needs Python >= 3.11; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	$(PY) -m nslab doctor --configure-lab --quiet
	touch $@

book: $(STAMP) ## build the book and print the page to open
	$(BIN)/jupyter-book build . -W --keep-going
	@echo "Open $(CURDIR)/$(BOOK)"

test: $(STAMP) ## everything: lint, floors, theorems, doctests, book, browser, JupyterLab, wheel
	@$(PY) -c 'import sys; from nslab.cli import find_browser; sys.exit(find_browser() is None)' \
		|| $(PY) -m playwright install chromium
	$(PY) -m pytest

test-fast: $(STAMP) ## under two minutes: lint, floors, theorems, doctests
	$(PY) -m pytest -m 'not (book or browser or lab or package)'

lab: $(STAMP) ## open the chapters in JupyterLab
	$(BIN)/jupyter lab

bench: $(STAMP) ## rerun the benchmarks and write their records
	$(PY) -m tests.benchmarks

format: $(STAMP) ## format and fix what ruff can fix
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

constraints: $(STAMP) ## write constraints.txt from this environment
	$(PY) -m pip freeze --exclude nslab | sed -E 's/\+[a-z0-9]+$$//' > $(VENV)/freeze.txt
	{ sed -n '/^#/p' constraints.txt; cat $(VENV)/freeze.txt; } > $(VENV)/new.txt && mv $(VENV)/new.txt constraints.txt

clean: ## remove what a build makes, the execution cache included
	rm -rf _build notebooks

clean-all: clean ## remove the virtual environment too
	rm -rf $(VENV)
