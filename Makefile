# `make demo`, `make test`, `make lint`, `make docs`, `make bench`, `make bench-peers`: each installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
PEERS := .venv-peers
INSTALLED_PEERS := $(PEERS)/.installed
SOURCES := src tests docs $(wildcard demo) $(wildcard benchmarks)

.PHONY: demo test test-fast test-gpu lint docs bench bench-peers format clean

# The quick form writes elsewhere, so that it never passes for the full run.
DEMO_ARGS := $(if $(QUICK),--quick --out demo/output-quick,--out demo/output)

demo: $(INSTALLED)
	$(BIN)/python demo/digits.py $(DEMO_ARGS)

# The two workers share their compilations, and so does a later run. Each starts at its own half of the files and takes
# over what the other has not reached, so that few files are traced, and their fixtures made, in both.
TWO := -n 2 --dist worksteal
test test-fast: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/.cache/jax
test test-fast: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
test: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO) -m "fast or accuracy"
	XLA_FLAGS= $(BIN)/python -m pytest -m measured

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest $(TWO) -m fast

test-gpu: $(INSTALLED)
	XLA_FLAGS= $(BIN)/python -m pytest -m gpu

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: $(INSTALLED)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(INSTALLED_DOCS)
	$(BIN)/mkdocs build --strict

# JOB=name runs one job, QUICK=1 small shapes. What the peers are needed for is left out, line by line.
BENCH_ARGS := $(if $(QUICK),--quick) $(if $(JOB),--job $(JOB))

# The verbs' own timings without the run-time shape checks, which would be timed as well.
bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks --jaxtyping-packages= --benchmark-enable --benchmark-only
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

# With the other libraries, which need an environment of their own: the comparison is within one process.
bench-peers: $(INSTALLED_PEERS)
	$(PEERS)/bin/python -m benchmarks.run $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(PEERS) .cache benchmarks/.cache .benchmarks .pytest_cache .ruff_cache build dist site
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plot,train]'
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(INSTALLED_PEERS): pyproject.toml constraints.txt $(wildcard benchmarks/requirements-peers*.txt)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r benchmarks/requirements-peers.txt -e '.[dev,plot,train]'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r benchmarks/requirements-peers-bare.txt
	touch $@
