# Needs Python 3.11 or newer and make; everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROSE = *.md docs/*.rst tutorials/*.py benchmarks/*.py benchmarks/*.md benchmarks/study/*.md $$(find captum_masking -name '*.py')
export PYTHONDONTWRITEBYTECODE := # or each process of a test compiles torch anew, for ten seconds

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two installs must not write to one environment at once
.PHONY: help demo test tutorials lint check docs build

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1#\2/p' $(MAKEFILE_LIST) | tr '#' '\t'

demo: $(VENV)/.installed-demo ## train a masker on digits, explain photographs; results in demo-output/
	$(BIN)/captum-masking demo --out demo-output

test: $(VENV)/.installed-test ## run the tests and the examples in the docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

tutorials: $(VENV)/.installed-test ## run every tutorial from its first line to its last
	$(BIN)/python -m pytest tests/test_tutorials.py

lint: $(VENV)/.installed-test ## style, formatting, spelling, prose, and that imports go one way; seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/proselint check $(PROSE)
	$(BIN)/lint-imports --no-logo

check: lint $(VENV)/.installed-docs ## lint, types, docs without a warning
	$(BIN)/mypy
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

docs: $(VENV)/.installed-docs ## build the documentation into docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

build: $(VENV)/.installed-build ## build and check the wheel and the source archive in dist/
	rm -rf dist
	$(BIN)/python -m build -q
	$(BIN)/python -m twine check --strict dist/*

# The stamp is the last thing written, so an interrupted install is done again by the next make.
$(VENV)/.installed-build:
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -q build twine
	@touch $@

$(VENV)/.installed-%: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	    "captum-masking needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "Installing captum-masking[$*] into $(VENV). The first time this downloads PyTorch and takes a few minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --no-compile -q -e '.[$*]'
	@touch $@
	@echo "Installed."
