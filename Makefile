# A machine needs only Python 3.11 to 3.13 and make: the first target to run sets up everything else in .venv.
#
#   make test PYTHON=python3.12                another Python for .venv
#   make test ARGS="tests/weights_convert -x"  arguments for pytest, or for `conformance run`
#   make newest NEWEST=flax                    newer releases of JAX, Flax and Keras alone, in less time

PYTHON ?= python3
ARGS ?=
NEWEST_PYTHON ?= python3.12
NEWEST ?= torch,flax
# Without PyTorch, name tests that need none: NEWEST_TESTS=tests/impls/flax
NEWEST_TESTS ?= -k "not keras" tests/impls tests/conformance/run tests/conformance/oracle
NEWEST_INSTALLED = .venv-newest/.installed-$(NEWEST)
comma := ,
NEWEST_KERAS = $(subst flax,keras@jax,$(subst torch,keras@torch,$(subst $(comma), ,$(NEWEST))))

BIN := .venv/bin
# Stands for "all that constraints.txt and pyproject.toml ask for is installed", so it is the last thing that set-up makes.
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup conformance test slow newest selftest benchmarks lint types format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*  ## /make \1\t/p' Makefile | expand -t 20

setup: $(INSTALLED)  ## create .venv, or bring it up to date

conformance: $(INSTALLED)  ## run the conformance suite
	$(BIN)/conformance run $(ARGS)

test: $(INSTALLED)  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

slow: $(INSTALLED)  ## run the slow tests: other libraries' own models and files, campaigns, other backends
	$(BIN)/python -m pytest -m slow $(ARGS)

newest:  ## run the suite on newer releases than the pinned ones, without TensorFlow, in .venv-newest (Python 3.12)
	@if $(NEWEST_PYTHON) --version >/dev/null 2>&1; then $(MAKE) --no-print-directory $(NEWEST_INSTALLED) newest-runs; \
	    else echo "skipped: NEWEST_PYTHON, $(NEWEST_PYTHON), is no Python 3.12 that runs here"; fi

newest-runs:
	.venv-newest/bin/python -m conformance.cli run $(ARGS)
	.venv-newest/bin/python -m conformance.cli run --impl $(NEWEST_KERAS) --precision float32 --variant keras
	KERAS_BACKEND=jax .venv-newest/bin/python -m pytest -k labels tests/impls/keras/test_training.py
	KERAS_BACKEND=jax .venv-newest/bin/python -m pytest $(NEWEST_TESTS)

selftest: $(INSTALLED)  ## inject every fault of the catalogue into every implementation: ten minutes
	$(BIN)/conformance selftest $(ARGS)

benchmarks: $(INSTALLED)  ## measure conversions and models beside other libraries, and what a check adds
	$(BIN)/python -m benchmarks.conversion $(ARGS)
	$(BIN)/python -m benchmarks.models --budget 900
	$(BIN)/python -m benchmarks.check

lint: $(INSTALLED)  ## check style and formatting
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(INSTALLED)  ## check types
	$(BIN)/python -m mypy

format: $(INSTALLED)  ## mend what can be mended of style and formatting
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean:  ## remove caches and builds (.venv stays)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A .venv without a working pip is one whose creation was interrupted: it is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@rm -f $@
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	        echo 'error: resnet-parity needs Python 3.11 to 3.13 (its pinned TensorFlow has no other), but' \
	            "$(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	        echo 'Name the one to use, as in: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12' >&2; \
	        exit 1; }; \
	    $(PYTHON) -m venv --clear .venv; }
	@echo 'Installing PyTorch, JAX, Flax, TensorFlow, Keras and the tools into .venv:' \
	    'about 8.5 GB and 3 minutes the first time, with nothing printed meanwhile.'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

$(NEWEST_INSTALLED): pyproject.toml constraints-newest.txt
	@rm -f $@
	@$(NEWEST_PYTHON) -m venv --clear .venv-newest
	@.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-newest.txt \
	    --editable '.[$(NEWEST)]' keras hypothesis pytest pytest-timeout pytest-xdist
	@touch $@
