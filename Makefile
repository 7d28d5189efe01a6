# make demo         vector search on data that every machine has, from a fresh clone, in about two minutes
# make test         the tests
# make lint         style, types, doors between rooms
# make bench        this package and its peers on the same work (needs much longer)
# make docs         the documentation, as HTML in site/
# make sanitize     the tests of search with a native module that checks itself; SANITIZE=thread for races
# make test-native  the kernels in C++: every instruction set of this machine against plain loops, bit for bit
# make test-neon    the same for NEON, cross-compiled and emulated
# make clean        remove everything that is made here
#
# Beforehand: Python >= 3.11 with its headers and venv, make, a C++20 compiler, and a network for pip. Everything else
# goes into .venv.

PYTHON ?= python3
SANITIZE ?= address,undefined

BIN := $(CURDIR)/.venv/bin
PIP := PATH="$(BIN):$$PATH" $(BIN)/python -m pip --quiet --disable-pip-version-check \
       install --constraint constraints.txt
# Folders count, so that a file that goes away is noticed too.
SOURCES := CMakeLists.txt LICENSE README.md pyproject.toml \
           $(shell find src native ! -name '__pycache__' ! -name '*.pyc' ! -name '*.so' ! -name '* *')
NATIVE := $(wildcard native/*.cpp native/*.h native/tests/*.cpp)

ifneq ($(wildcard ../shared/data),)
export TENFOLD_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint bench docs sanitize test-native test-neon clean
.DELETE_ON_ERROR:

demo: .venv/base
	$(BIN)/tenfold demo

test: .venv/dev .venv/gpu
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(if $(NATIVE),$(BIN)/clang-format --dry-run -Werror $(NATIVE))

# One million real SIFT descriptors in BENCH_DATA; benchmarks/README.md says which files.
BENCH_DATA ?= build/sift1m
bench: .venv/bench
	@test -f "$(BENCH_DATA)/base.u8bin" || \
	    { echo "$(BENCH_DATA)/base.u8bin is missing; say where it lies: make bench BENCH_DATA=DIR" >&2; exit 2; }
	$(BIN)/python benchmarks/anatomy.py --json build/anatomy.json
	$(BIN)/python benchmarks/attention.py --json build/attention.json
	$(BIN)/python benchmarks/faces.py --json build/faces.json
	$(BIN)/python benchmarks/search.py --data "$(BENCH_DATA)" --json build/bench.json --out docs/results/search-sift.md

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The sanitizers' run-time library must come first in the process, and so before Python.
# What needs torch, or Ray's processes, is left out. Races show where threads meet: with SANITIZE=thread, which takes twenty
# times as long, only the tests in which they do are run. ThreadSanitizer does not see how threads of other libraries
# wait for each other: OpenBLAS gets one, and where a job gives it more, what it says of that is left out.
# detect_leaks=0: Python and the modules it loads keep much until the process ends, and all of it would be reported.
sanitize: .venv/dev
	rm -rf build/sanitized
	$(PIP) --no-deps --no-build-isolation --target build/sanitized \
	    --config-settings=build-dir=build/sanitize-$(firstword $(subst $(comma), ,$(SANITIZE))) \
	    --config-settings=cmake.build-type=RelWithDebInfo \
	    --config-settings=cmake.define.TENFOLD_SANITIZE=$(SANITIZE) .
	OPENBLAS_NUM_THREADS=1 ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	TSAN_OPTIONS=allocator_may_return_null=1:suppressions=$(CURDIR)/native/tests/thread_sanitizer.txt \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	LD_PRELOAD="$$($(CXX) -print-file-name=$(SANITIZER_LIBRARY)) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	PYTHONPATH=$(CURDIR)/build/sanitized $(BIN)/python -m pytest --capture=sys -m "not footprint" \
	    --ignore=tests/search/test_gpu.py --ignore=tests/search/test_cluster.py \
	    $(if $(findstring thread,$(SANITIZE)),$(THREADED:%=tests/search/test_%.py),tests/search)

THREADED := kernels routing exactness allowed filters io_backends baselines batching relisting living living_closing

comma := ,
SANITIZER_LIBRARY := $(if $(findstring thread,$(SANITIZE)),libtsan.so,libasan.so)

# The kernels alone, without Python: compiled for the machine of CXX with the flags of CMakeLists.txt, run by EMULATOR.
EMULATOR ?=
TARGET := $(firstword $(subst -, ,$(shell $(CXX) -dumpmachine 2>/dev/null)))
KERNELS_x86_64 := kernels_avx2 kernels_avx512
KERNELS_aarch64 := kernels_neon
FLAGS_x86_64 := -march=x86-64-v2
FLAGS_kernels_avx2 := -mavx2 -mf16c
FLAGS_kernels_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c \
                        -Wno-uninitialized -Wno-maybe-uninitialized
KERNELS_BUILD := build/kernels-$(TARGET)
KERNELS_TEST := $(KERNELS_BUILD)/tests/kernels_test

test-native: $(KERNELS_TEST)
	$(EMULATOR) $<

$(KERNELS_TEST): $(patsubst %,$(KERNELS_BUILD)/%.o,tests/kernels_test checksum dispatch kernels_scalar $(KERNELS_$(TARGET)))
	$(CXX) $(LDFLAGS) $^ -o $@

$(KERNELS_BUILD)/%.o: native/%.cpp $(wildcard native/*.h) Makefile
	@mkdir -p $(@D)
	$(CXX) -std=c++20 -O3 -ffp-contract=off -Wall -Wextra -Wno-psabi $(FLAGS_$(TARGET)) $(FLAGS_$*) -c $< -o $@

NEON_CXX ?= aarch64-linux-gnu-g++
QEMU = $(firstword $(shell which qemu-aarch64 qemu-aarch64-static 2>/dev/null))

test-neon:
	@which $(NEON_CXX) >/dev/null && test -n "$(QEMU)" || { \
	    echo "make test-neon needs $(NEON_CXX) and qemu-aarch64;" \
	         "on Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user-static" >&2; exit 1; }
	$(MAKE) test-native CXX=$(NEON_CXX) LDFLAGS=-static EMULATOR=$(QEMU)

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

.venv/dev .venv/docs .venv/bench .venv/gpu: .venv/%: .venv/build $(SOURCES)
	$(PIP) --no-build-isolation ".[$*]"
	touch .venv/base $@
