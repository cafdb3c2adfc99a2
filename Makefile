# `make demo`, `make test`, `make lint`, `make docs`, `make bench`: each installs what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
SOURCES := src tests $(wildcard demo) $(wildcard benchmarks)

.PHONY: demo test lint docs bench format clean

# The quick form writes elsewhere, so that it never passes for the full run.
DEMO_ARGS := $(if $(QUICK),--quick --out demo/output-quick,--out demo/output)

demo: $(INSTALLED)
	$(BIN)/python demo/digits.py $(DEMO_ARGS)

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

bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only

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
