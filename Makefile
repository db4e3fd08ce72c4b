# Everything a developer or CI runs. Each target builds the virtual environment that it
# needs; nothing outside the tree is touched, and only package registries are contacted.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# As pip does, in a tenth of the time.
UV_INSTALL := uv pip install --quiet --compile-bytecode --python

# Two test processes share two cores: BLAS threads of their own would only get in the
# way. Shared by tests, doctests and notebooks, as is the choice of the CPU.
JAX_PLATFORMS ?= cpu
OPENBLAS_NUM_THREADS ?= 1
PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
MPLBACKEND ?= Agg
export JAX_PLATFORMS OPENBLAS_NUM_THREADS PYRIGHT_PYTHON_IGNORE_WARNINGS MPLBACKEND
# A hundred processes load the package: one of them writes its bytecode.
unexport PYTHONDONTWRITEBYTECODE
WORKERS ?= 2
# Tests of one file share what they compile: a file goes to one process.
RUN_TESTS := -m pytest -q -n $(WORKERS) --dist loadfile \
	-W "ignore:Error reading persistent compilation cache" \
	-W "ignore:Error writing persistent compilation cache"
# As users run it: without the check of types and shapes at every call of the package
# (pyproject.toml), which takes five seconds of each process and half of a call.
UNCHECKED := $(RUN_TESTS) -o addopts="-ra --strict-markers"
X64_OFF_TESTS := tests/operators/test_operators.py tests/solvers/test_truncated.py \
	tests/evaluation/test_dtypes.py

# What runs on the lowest and the newest libraries and with types checked: each layer and
# what it takes of them. Little of what is not of a version: float32 has its own run.
OPERATORS := tests/operators/test_operators.py
OTHER_VERSIONS ?= tests/test_package.py tests/test_archives.py \
	$(OPERATORS)::test_products_agree_with_the_matrix \
	$(OPERATORS)::test_an_operator_agrees_with_the_table_of_its_context \
	$(patsubst %,tests/operators/test_%.py,sharded explicit cost) \
	tests/solvers/test_svd.py tests/solvers/test_sharded.py \
	tests/contexts/test_features.py tests/contexts/test_sampling.py \
	tests/losses/test_contract.py tests/models/test_functional.py \
	tests/training/test_parallel.py tests/training/test_resume.py \
	tests/evaluation/test_encoders.py tests/plotting tests/data/test_features.py \
	tests/cli/test_spectrum.py
OF_EACH_LAYER := -m "not slow" -k "not float32" $(OTHER_VERSIONS)
# The newest JAX needs Python 3.12. Looked for only where it is used.
PYTHON_NEWEST ?= $(shell for p in python3.13 python3.12 $$(ls -d \
	$${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[23].*/bin/python3 2> /dev/null \
	| sort -rV); do $$p -c "" 2> /dev/null && echo $$p && break; done)

# Most of a test's time is compiling: processes and runs share what they compiled. One
# may read what another is still writing: JAX then warns and compiles for itself.
TESTS := test test-slow test-lowest test-newest test-x64-off test-types doctest
COMPILING := $(TESTS) notebooks bench-smoke
$(COMPILING): export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(BUILD)/jax
$(COMPILING): export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
# Their programs run for milliseconds.
$(COMPILING): export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 1

# Recipes install into one environment: `make -j` runs them one after the other.
.NOTPARALLEL:
.PHONY: help demo lint format types notebooks bench-smoke bench-accelerator wheel clean \
	test-aot other-environments $(TESTS)

print-%: # the value of a variable, for scripts
	@echo '$($*)'

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-cli ## spectrum of the digits data set, with pictures, in demo/
	$(BIN)/contexture spectrum digits --context knn --num-neighbors 30 --rank 64 \
		--target target --out demo
	@echo; echo "Pictures:"; ls demo/*.png

test: doctest $(VENV)/.installed-dev ## everything but the slow tests
	$(BIN)/python $(UNCHECKED) -m "not slow" --durations=10 tests

test-slow: $(VENV)/.installed-dev ## the slow tests
	$(BIN)/python $(UNCHECKED) -m slow --durations=10 tests

doctest: $(VENV)/.installed-dev ## examples in the README, the guide and in docstrings
	$(BIN)/python $(UNCHECKED) --doctest-modules --doctest-glob=README.md \
		--doctest-glob=own_context.md README.md notebooks/own_context.md contexture_jax

test-x64-off: $(VENV)/.installed-dev ## a part of the suite in JAX's default precision
	CONTEXTURE_TEST_X64=0 $(BIN)/python $(RUN_TESTS) -m "not slow" $(X64_OFF_TESTS)

test-types: $(VENV)/.installed-dev ## OTHER_VERSIONS, types and shapes checked at calls
	$(BIN)/python $(RUN_TESTS) $(OF_EACH_LAYER)

# Old libraries meet newer ones that they depend on: their deprecations are not ours.
test-lowest: $(VENV)-lowest/.installed ## OTHER_VERSIONS on the lowest dependencies
	$(VENV)-lowest/bin/python $(UNCHECKED) -W ignore::DeprecationWarning $(OF_EACH_LAYER)

test-newest: $(VENV)-newest/.installed ## OTHER_VERSIONS on the newest JAX and Python
	$(VENV)-newest/bin/python $(UNCHECKED) $(OF_EACH_LAYER)

# The compiler for TPUs is half a gigabyte: where it is not served the tests skip. With
# the optimisations of real programs, and nothing kept.
test-aot: $(VENV)-newest/.installed ## programs compiled for TPUs that are not here
	$(VENV)-newest/bin/$(UV_INSTALL) $(VENV)-newest/bin/python -e '.[tpu-aot]' \
		|| echo "libtpu is not served here: nothing is compiled for a TPU."
	$(VENV)-newest/bin/python $(UNCHECKED) -m slow tests/planning/test_aot.py

lint: $(VENV)/.installed-dev ## format and style, checked
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.installed-dev ## format and style, mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(VENV)/.installed-dev ## types of package, tests and benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python

notebooks: $(VENV)/.installed-dev ## run every notebook; results in build/notebooks/
	$(BIN)/python .ci/run_notebooks.py notebooks $(BUILD)/notebooks

bench-smoke: $(VENV)/.installed-dev ## run every benchmark at a tiny size
	printf '%s\n' benchmarks/[a-z]*.py | xargs -P $(WORKERS) -I {} \
		sh -ec 'echo "{} --smoke"; $(BIN)/python {} --smoke > /dev/null'

# The device that JAX finds, unless the caller names one: the choice above is for tests.
# A failed check does not keep the figures from the tables.
bench-accelerator: ## one GPU or TPU: exactness, peaks, workloads; QUICK=1: two minutes
	@$(check_python)
	@export PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}"; \
	$(if $(filter file,$(origin JAX_PLATFORMS)),unset JAX_PLATFORMS;) \
	$(PYTHON) benchmarks/accelerator.py $(if $(QUICK),--quick) \
		--json benchmarks/results/accelerator.json; status=$$?; \
	$(PYTHON) benchmarks/render.py; exit $$status

wheel: ## build sdist and wheel; install the wheel apart and import it from elsewhere
	@$(check_python)
	rm -rf dist $(BUILD)/wheel
	$(PYTHON) -m venv $(BUILD)/wheel/builder
	$(BUILD)/wheel/builder/bin/python $(PIP_INSTALL) build
	$(BUILD)/wheel/builder/bin/python -m build --outdir dist . > $(BUILD)/wheel/log
	$(PYTHON) -m venv $(BUILD)/wheel/user
	$(BUILD)/wheel/user/bin/python $(PIP_INSTALL) dist/*.whl
	cd / && $(CURDIR)/$(BUILD)/wheel/user/bin/python -I \
		$(CURDIR)/.ci/check_installed.py $(CURDIR)

clean: ## remove everything that the targets above made
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest $(BUILD) dist demo .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define check_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "Python 3.11 or newer is needed; '$(PYTHON)' is" \
	"$$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; \
	exit 1; }
endef

# --clear: without its interpreter, what is left of an old environment is of no use.
$(BIN)/uv:
	@$(check_python)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python $(PIP_INSTALL) uv

# The stamps tell make what is installed; a change of pyproject.toml, or an environment
# begun anew, installs again.
$(VENV)/.installed-dev: pyproject.toml $(BIN)/uv
	$(BIN)/$(UV_INSTALL) $(BIN)/python -e '.[lint]'
	@touch $@ $(VENV)/.installed-cli

$(VENV)/.installed-cli: pyproject.toml $(BIN)/uv
	$(BIN)/$(UV_INSTALL) $(BIN)/python -e '.[cli]'
	@touch $@

$(VENV)-lowest/.installed: pyproject.toml
	@$(check_python)
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python $(PIP_INSTALL) uv
	$(VENV)-lowest/bin/$(UV_INSTALL) $(VENV)-lowest/bin/python \
		--resolution lowest-direct -e '.[test]'
	@touch $@

# In CI beside what does not need them.
other-environments: $(VENV)-lowest/.installed
	$(if $(PYTHON_NEWEST),$(MAKE) --no-print-directory $(VENV)-newest/.installed)

$(VENV)-newest/.installed: pyproject.toml
	@test -n "$(PYTHON_NEWEST)" || { echo "No Python 3.12 or 3.13 found: name one," \
		"make $(MAKECMDGOALS) PYTHON_NEWEST=/path/to/python3.13" >&2; exit 1; }
	$(PYTHON_NEWEST) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python $(PIP_INSTALL) uv
	$(VENV)-newest/bin/$(UV_INSTALL) $(VENV)-newest/bin/python -e '.[test]'
	@touch $@
