# make demo       vector search on data that every machine has, from a fresh clone, in about two minutes
# make test       the tests        make lint   style, types, doors between rooms
# make bench      this package and its peers on the same work (needs much longer)
# make docs       the documentation, as HTML in site/
# make sanitize   the tests of search with a native module that checks itself; SANITIZE=thread for races
# make clean      remove everything that is made here
#
# Beforehand: Python >= 3.11, make and a C++20 compiler. Everything else goes into .venv.

PYTHON ?= python3
SANITIZE ?= address,undefined

BIN := $(CURDIR)/.venv/bin
PIP := PATH="$(BIN):$$PATH" $(BIN)/python -m pip --quiet --disable-pip-version-check \
       install --constraint constraints.txt
# Folders count, so that a file that goes away is noticed too.
SOURCES := CMakeLists.txt LICENSE README.md pyproject.toml \
           $(shell find src native ! -name '__pycache__' ! -name '*.pyc' ! -name '*.so' ! -name '* *')
NATIVE := $(wildcard native/*.cpp native/*.h)

ifneq ($(wildcard ../shared/data),)
export TENFOLD_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint bench docs sanitize clean
.DELETE_ON_ERROR:

demo: .venv/base
	$(BIN)/tenfold demo

test: .venv/dev
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(if $(NATIVE),$(BIN)/clang-format --dry-run -Werror $(NATIVE))

bench: .venv/bench
	$(BIN)/python benchmarks/search.py

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sanitizers' run-time library must come first in the process, and so before Python.
sanitize: .venv/dev
	rm -rf build/sanitized
	$(PIP) --no-deps --no-build-isolation --target build/sanitized \
	    --config-settings=build-dir=build/sanitize-$(firstword $(subst $(comma), ,$(SANITIZE))) \
	    --config-settings=cmake.build-type=RelWithDebInfo \
	    --config-settings=cmake.define.TENFOLD_SANITIZE=$(SANITIZE) .
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	LD_PRELOAD="$$($(CXX) -print-file-name=$(SANITIZER_LIBRARY)) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	PYTHONPATH=$(CURDIR)/build/sanitized $(BIN)/python -m pytest tests/search

comma := ,
SANITIZER_LIBRARY := $(if $(findstring thread,$(SANITIZE)),libtsan.so,libasan.so)

clean:
	rm -rf .venv build dist site .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# What compiles the native module; in the same environment, so that a second build only compiles what changed.
.venv/build: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tenfold needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(PIP) scikit-build-core nanobind cmake ninja
	touch $@

.venv/base: .venv/build $(SOURCES)
	$(PIP) --no-build-isolation .
	touch $@

.venv/dev .venv/docs .venv/bench: .venv/%: .venv/build $(SOURCES)
	$(PIP) --no-build-isolation ".[$*]"
	touch .venv/base $@
