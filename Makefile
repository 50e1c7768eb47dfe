# `make demo` and `make test` do all their set-up: a virtual environment in .venv with every extra that tests need.
#
#   make install PYTHON=python3.12     another interpreter (3.10 or newer)
#   UV_TORCH_BACKEND=cpu make install  a small torch without CUDA, when uv installs

PYTHON ?= python3
EXTRAS ?= train,test
JOBS ?= 2
BENCHMARKS ?= $(sort $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))))

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-all bench clean

install: $(INSTALLED)

# Compiled at once: torch costs ten seconds an import where Python may not write bytecode itself.
# uv from the PATH, else uv from pip into .uv (--target leaves the interpreter itself alone), else venv and pip.
$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("vidprep needs Python 3.10 or newer, not " + sys.version.split()[0] + "; run make PYTHON=python3.12")'
	@set -e; \
	if command -v uv >/dev/null 2>&1; then uv=uv; \
	elif $(PYTHON) -m pip install --quiet --upgrade --target .uv uv; then uv=.uv/bin/uv; \
	else uv=; fi; \
	if [ -n "$$uv" ]; then \
		[ -x $(BIN)/python ] || $$uv venv --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
		$$uv pip install --compile-bytecode --python $(BIN)/python --editable '.[$(EXTRAS)]'; \
	else \
		[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --editable '.[$(EXTRAS)]'; \
	fi
	@touch $@

demo: install
	$(BIN)/vidprep demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

bench: install
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python -m benchmarks.$$benchmark; done

# What running made; the environment stays (rm -r .venv .uv).
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find vidprep shards trainer cli tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
