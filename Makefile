# `make lab` and `make test` are the two commands of the course. The first run makes .venv; it needs only Python, pip and make.
#
#   PYTHON       the interpreter that makes .venv           make lab PYTHON=python3.12
#   VENV         the folder of that environment             make unit VENV=.venv-other PYTHON=python3.13
#   PIP_ARGS     options for pip install                    make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   EXTRAS       what is installed beside the course        make unit VENV=.venv-core EXTRAS=check
#   LAB_ARGS     options for JupyterLab                     make lab LAB_ARGS=--no-browser
#   PYTEST_ARGS  options for the unit tests and notebooks   make unit PYTEST_ARGS="-k temperature -x"
#   STUDY        one study of make studies, or several      make studies STUDY="hinton pair"
#   SEEDS        how many seeds a study has (default 5)     make studies STUDY=league SEEDS=10
#   FAST         tiny trainings, to see that all works      make studies FAST=1 SEEDS=1
#   SLUG         your repository, for make fork             make fork SLUG=you/your-repo

PYTHON ?= python3
PIP_ARGS ?=
EXTRAS ?= test
LAB_ARGS ?=
PYTEST_ARGS ?=
STUDY ?=
SEEDS ?=
FAST ?=
SLUG ?=
VENV := .venv

# A shell gets these texts in quotes, so that it acts on nothing in them. Make itself would act on a '$', and a line break ends a
# command even in quotes. VENV stands in names of files, where make knows no quotes.
hash := \#
unsafe := ' " \ ` ; & | < > ( ) [ ] { } * ? ! ~ % : = , .. $(hash)
define newline


endef
$(foreach name,PYTHON PIP_ARGS EXTRAS LAB_ARGS PYTEST_ARGS STUDY SEEDS FAST SLUG VENV,\
	$(if $(findstring $$,$(value $(name)))$(findstring $(newline),$(value $(name))),\
		$(error $(name) must not hold a dollar sign or a line break: make and the shell would run what follows it)))
$(if $(filter-out 1,$(words $(VENV)))$(strip $(foreach sign,$(unsafe),$(findstring $(sign),$(VENV))))$(filter -% /,$(VENV)),\
	$(error VENV must be one folder without spaces, '..' or signs that a shell reads, such as .venv or /tmp/kd, not '$(VENV)'))
quoted = '$(subst ','\'',$(1))'

BIN := $(VENV)/bin
READY := $(VENV)/.ready

# `$(call python,OPTIONS) …`: the environment's Python with what follows, and then with options that came as one text.
python = $(BIN)/python tools/with_options.py $(call quoted,$(1)) $(BIN)/python

# Files side by side, one thread each: faster than one after another on all threads, also when other programs are busy.
# PYTEST_ARGS="-n 0" runs them in one process, which a debugger needs.
WORKERS = $$($(BIN)/python -c 'import os; print(min(4, len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))))')
SIDE_BY_SIDE = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(call python,$(PYTEST_ARGS)) -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help lab test lint unit notebooks format refresh bench studies report slides preflight teachers fork clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

lab: $(READY) ## set up if needed, then open the course in JupyterLab
	$(call python,$(LAB_ARGS)) -m jupyterlab notebooks/00_start_here.ipynb

test: $(READY) ## set up if needed, then run linter, unit tests and notebooks, all three even if one fails
	@failed=""; \
	for part in lint unit notebooks; do $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	test -z "$$failed" || { echo "Failed:$$failed. The errors are printed above." >&2; exit 1; }

lint: $(READY) ## check code and notebooks with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: $(READY) ## run the unit tests and the examples in the docstrings
	$(SIDE_BY_SIDE) --doctest-modules tests kd_course

# Each kernel runs in its own process; a warning of the tools that drive it is not an error of the course.
notebooks: $(READY) ## run every notebook and compare the outputs that must not differ
	$(SIDE_BY_SIDE) --nbval-lax --nbval-current-env --nbval-cell-timeout=300 --timeout=600 -W default \
		notebooks/[0-9]*.ipynb

format: $(READY) ## fix with ruff what it can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

refresh: $(READY) ## execute all notebooks again, one after another, and store their outputs and costs
	$(BIN)/python tools/refresh.py

bench: $(READY) ## measure what the training loop and the losses cost
	$(BIN)/python tools/bench.py

studies: $(READY) ## run what is missing of the studies behind data/results (hours; stop and resume as you like)
	$(BIN)/python -m kd_course.studies $(foreach name,$(STUDY),$(call quoted,$(name))) \
		$(if $(SEEDS),--seeds $(call quoted,$(SEEDS))) $(if $(filter-out 0,$(FAST)),--fast)

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
	@$(call quoted,$(PYTHON)) tools/fork.py $(call quoted,$(SLUG))

# An environment is deleted only if this file made it or installed into it, and never with the course inside.
clean: ## remove environments, builds and caches, but no downloads
	@for venv in $(sort $(VENV) .venv-oldest); do \
		test -e "$$venv" || continue; \
		here=$$(cd "$$venv" && pwd -P); \
		case "$$(pwd -P)/" in "$${here%/}"/*) here= ;; esac; \
		if [ -n "$$here" ] && [ -f "$$venv/.ready" ] && [ -f "$$venv/pyvenv.cfg" ]; then \
			echo "rm -rf $$venv"; rm -rf "$$venv"; \
		else echo "'$$venv' stays: it is no environment that make has made" >&2; fi; \
	done
	rm -rf build dist .pytest_cache .ruff_cache .ipynb_checkpoints
	find $(wildcard kd_course notebooks site tests tools) \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(READY): pyproject.toml | $(BIN)/python
	@echo "Installing the course and what it needs into $(VENV); PyTorch is a large download."
	$(call python,$(PIP_ARGS)) -m pip install --editable $(call quoted,.[$(EXTRAS)])
	@touch $@

$(BIN)/python:
	@python=$(call quoted,$(PYTHON)); \
	command -v "$$python" > /dev/null || { \
		echo "There is no '$$python' here. Install Python 3.11 or newer, or name yours: PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "'$$python' is $$("$$python" --version 2>&1); the course needs 3.11 or newer. Name another: PYTHON=python3.12" >&2; exit 1; }; \
	"$$python" -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "'$$python' cannot make environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@test -e $(VENV)/pyvenv.cfg || test -z "$$(ls -A $(VENV) 2> /dev/null)" || { \
		echo "'$(VENV)' is there and no environment. Name a new folder: VENV=.venv-course" >&2; exit 1; }
	@test ! -e $(VENV)/pyvenv.cfg || { \
		echo "The Python of '$(VENV)' is gone. Delete that folder, or name a new one: VENV=.venv-course" >&2; exit 1; }
	$(call quoted,$(PYTHON)) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch -t 200001010000 $(READY) # made here, and older than all that is to be installed
