# Every target does its own set-up. Needs: make, Python 3.11 or newer; `make test` also Debian packages,
# which it installs when it may (root, or sudo without a password) and names in one line when not.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= hepduck-data
ARGS ?=

.PHONY: help demo test lint format run bench notebooks docs clean

help:
	@echo "make demo    recorded ghost calls, found live, and the web app on them (DEMO=stay keeps it running)"
	@echo "make test    lint and all tests, with real Kamailio, sipp and tshark"
	@echo "make run     the tap on udp and tcp 127.0.0.1:9060 (ARGS='-L udp:0.0.0.0:9060 ...')"
	@echo "make notebooks  four Jupyter notebooks;  make docs  a page for each command"
	@echo "make lint    ruff, mypy, import-linter;  make format  ruff format;  make bench  README's tables"

demo: $(VENV)/.runtime
	@$(BIN)/hepduck demo $(if $(filter stay,$(DEMO)),--stay)

run: $(VENV)/.runtime
	$(BIN)/hepduck run --store $(STORE) $(ARGS)

test: lint
	@sh tests/system-packages.sh
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.latency

docs: $(VENV)/.dev
	$(BIN)/python -m pipeline.cli.pages docs/commands

notebooks: $(VENV)/.notebooks
	$(BIN)/jupytext --to ipynb notebooks/*.py

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "hepduck needs Python 3.11 or newer as $(PYTHON); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || sh tests/system-packages.sh python3-venv
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.made pyproject.toml constraints.txt
	@echo "installing hepduck into $(VENV) ..." >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app]'
	@touch $@

$(VENV)/.notebooks: $(VENV)/.runtime
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app,notebooks]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
