# `make demo`, `make test`, `make lint`, `make docs`, `make bench`: each installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
SOURCES := src tests docs $(wildcard demo) $(wildcard benchmarks)

.PHONY: demo test lint docs bench format clean

# The quick form writes elsewhere, so that it never passes for the full run.
DEMO_ARGS := $(if $(QUICK),--quick --out demo/output-quick,--out demo/output)

demo: $(INSTALLED)
	$(BIN)/python demo/digits.py $(DEMO_ARGS)

# Much of a run is compilation, which a later run reads back: three times faster where it was measured.
test: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/.cache/jax
test: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0.2
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not gpu"

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: $(INSTALLED)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(INSTALLED_DOCS)
	$(BIN)/mkdocs build --strict

# Without the run-time shape checks, which would be timed as well.
bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks --jaxtyping-packages= --benchmark-enable --benchmark-only

clean:
	rm -rf $(VENV) .cache .benchmarks .pytest_cache .ruff_cache build dist site
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plot,train,diagnostics]'
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
