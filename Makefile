# `make lab` and `make test` are the two commands of the course. The first run makes .venv; it needs only Python, pip and make.
#
#   PYTHON       the interpreter that makes .venv           make lab PYTHON=python3.12
#   VENV         the folder of that environment             make unit VENV=.venv-other PYTHON=python3.13
#   PIP_ARGS     options for pip install                    make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   LAB_ARGS     options for JupyterLab                     make lab LAB_ARGS=--no-browser
#   PYTEST_ARGS  options for the unit tests and notebooks   make unit PYTEST_ARGS="-k temperature -x"
#   STUDY        one study of make studies, or several      make studies STUDY="hinton pair"
#   SEEDS        how many seeds a study has (default 5)     make studies STUDY=league SEEDS=10
#   FAST         tiny trainings, to see that all works      make studies FAST=1 SEEDS=1
#   SLUG         your repository, for make fork             make fork SLUG=you/your-repo

PYTHON ?= python3
PIP_ARGS ?=
LAB_ARGS ?=
PYTEST_ARGS ?=
STUDY ?=
SEEDS ?=
FAST ?=
SLUG ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Files side by side, one thread each: faster than one after another on all threads, also when other programs are busy.
# PYTEST_ARGS="-n 0" runs them in one process, which a debugger needs.
WORKERS = $$($(BIN)/python -c 'import os; print(min(4, len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))))')
SIDE_BY_SIDE = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test lint unit notebooks format refresh bench studies report slides preflight teachers fork clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

lab: $(READY) ## set up if needed, then open the course in JupyterLab
	$(BIN)/jupyter-lab notebooks/00_start_here.ipynb $(LAB_ARGS)

test: $(READY) ## set up if needed, then run linter, unit tests and notebooks, all three even if one fails
	@failed=""; \
	for part in lint unit notebooks; do $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	test -z "$$failed" || { echo "Failed:$$failed. The errors are printed above." >&2; exit 1; }

lint: $(READY) ## check code and notebooks with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: $(READY) ## run the unit tests and the examples in the docstrings
	$(SIDE_BY_SIDE) --doctest-modules tests kd_course $(PYTEST_ARGS)

# Each kernel runs in its own process; a warning of the tools that drive it is not an error of the course.
notebooks: $(READY) ## run every notebook and compare the outputs that must not differ
	$(SIDE_BY_SIDE) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --timeout=600 -W default \
		notebooks/[0-9]*.ipynb $(PYTEST_ARGS)

format: $(READY) ## fix with ruff what it can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

refresh: $(READY) ## execute all notebooks again, one after another, and store their outputs and costs
	$(BIN)/python tools/refresh.py

bench: $(READY) ## measure what the training loop and the losses cost
	$(BIN)/python tools/bench.py
	$(BIN)/python tools/bench_losses.py

studies: $(READY) ## run what is missing of the studies behind data/results (hours; stop and resume as you like)
	$(BIN)/python -m kd_course.studies $(STUDY) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FAST),--fast)

report: $(READY) ## write the figures and tables of the studies
	$(BIN)/python tools/report.py

slides: $(READY) ## make slides of the notebooks in build/slides
	$(BIN)/python tools/slides.py

preflight: $(READY) ## check this machine
	$(BIN)/python -m kd_course

teachers: $(READY) ## train the shipped MNIST teachers again
	$(BIN)/python -m kd_course.teachers cnn
	$(BIN)/python -m kd_course.teachers mlp

fork: ## point badges and bootstrap cells at your fork: make fork SLUG=you/your-repo
	@$(PYTHON) tools/fork.py "$(SLUG)"

clean: ## remove environments, builds and caches, but no downloads
	rm -rf $(VENV) .venv-oldest build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(READY): pyproject.toml | $(BIN)/python
	@echo "Installing the course and what it needs into $(VENV); PyTorch is a large download."
	$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[test]'
	@touch $@

$(BIN)/python:
	@command -v "$(PYTHON)" > /dev/null || { \
		echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name yours: PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "'$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); the course needs 3.11 or newer. Name another: PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "'$(PYTHON)' cannot make environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
