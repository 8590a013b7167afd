# What people and machines do with this repository; `make` alone lists it.

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check
PYTHON ?= python3.11
# A PYTHON that somebody chose is taken or refused; only our own default falls back.
CANDIDATES := $(if $(filter file,$(origin PYTHON)),$(PYTHON) python3,$(PYTHON))
# Test processes. Each keeps to one thread (tests/conftest.py), so this is also the number of busy cores.
JOBS ?= 2
# For `make lock`: LOCK_FLAGS=--upgrade or LOCK_FLAGS="--upgrade-package pillow"; without it every pin stays.
LOCK_FLAGS ?=
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" $(LOCK_FLAGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev demo test coverage lint typecheck check docs docs-serve bench build build-local lock clean

help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: $(VENV)/.installed ## make .venv with the locked dependencies and this checkout in it

setup-dev: $(VENV)/.installed-dev ## the same, with what tests and linters need

# pip is what a half-made environment lacks, so it is the sign that the environment is there.
$(BIN)/pip:
	@for python in $(CANDIDATES); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "clf needs Python 3.11 or newer; not found as: $(CANDIDATES). Try: make setup PYTHON=/path/to/python3.11" >&2; \
	exit 1

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/pip
	$(INSTALL) --require-hashes --requirement requirements.lock
	$(INSTALL) --no-deps --editable .
	@touch $@

# Apart from the users' packages: what our numbers are compared with slows every start down (scipy).
$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(INSTALL) --require-hashes --requirement requirements-dev.lock
	@touch $@

demo: setup ## train on the embedded dataset: no GPU, no data, no account
	$(BIN)/clf fit --config configs/demo.yaml
	@echo
	@echo "Everything of this run lies in runs/$$(readlink runs/latest), also reachable as runs/latest. Next:"
	@echo "  $(BIN)/clf test                                               score its best checkpoint"
	@echo "  $(BIN)/clf predict --data.predict FOLDER_OF_IMAGES            predict with it"
	@echo "  $(BIN)/clf fit --ckpt_path last --trainer.max_epochs EPOCHS   train it for longer"

test: setup-dev ## all tests
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

coverage: setup-dev ## all tests, and which lines of clf they run; takes half as long again
	$(BIN)/pytest --numprocesses $(JOBS) --dist worksteal --cov --cov-report term

lint: setup-dev ## ruff (rules and format), shellcheck and yamllint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck .ci/run scripts/*.sh
	$(BIN)/yamllint --strict .

typecheck: setup-dev ## mypy --strict
	$(BIN)/mypy

check: lint typecheck test ## what CI runs

docs: setup-dev ## build the documentation site into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: setup-dev ## show the site at http://127.0.0.1:8000, and again after each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# DATA: a dataset with train, valid and test, class folders of JPEGs inside. SMALL_DATA: any folder of small JPEGs.
DATA ?=
SMALL_DATA ?=
BENCH = $(BIN)/python benchmarks/$(1).py --record $(if $(DATA),--data $(DATA))

bench: setup ## measure all against peers, in an hour or more; DATA=FOLDER and SMALL_DATA=FOLDER measure on yours, too
	$(call BENCH,pipeline) $(if $(SMALL_DATA),--small_data $(SMALL_DATA))
	$(BIN)/python benchmarks/cache.py --record
	$(BIN)/python benchmarks/step.py --record
	$(BIN)/python benchmarks/whole_run.py --record
	$(if $(DATA),$(call BENCH,whole_run))
	$(BIN)/python benchmarks/predict.py --record
	$(BIN)/python benchmarks/startup.py --record
	$(BIN)/python benchmarks/growth.py --record
	$(BIN)/python benchmarks/allocator.py --record
	$(BIN)/python benchmarks/callbacks.py --record
	$(BIN)/python benchmarks/check.py --record
	$(BIN)/python benchmarks/cost.py --record
	$(call BENCH,accuracy)
	$(BIN)/python benchmarks/performance.py

build: ## build the training image and push it to CLF_REGISTRY (scripts/build-docker.sh --help)
	scripts/build-docker.sh

build-local: ## build the training image for this machine
	scripts/build-docker.sh --local

lock: | $(BIN)/uv ## rewrite the locks from pyproject.toml
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --group build --constraint requirements-dev.lock --output-file requirements-build.lock
	$(COMPILE) --group release --constraint requirements-dev.lock --output-file requirements-release.lock
	$(COMPILE) --group serve-cpu --constraint requirements-dev.lock --output-file requirements-serve.lock
	$(COMPILE) --group serve-gpu --constraint requirements-dev.lock --output-file requirements-serve-gpu.lock

$(BIN)/uv:
	$(MAKE) setup-dev

clean: ## remove caches and reports; .venv and runs stay
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov site
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
