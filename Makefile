# What this repository can do, one target each. `make help` lists them.
# PYTHON chooses the interpreter of .venv (3.11 or newer); pip's own environment is left as it is.

PYTHON ?= python3
CC ?= cc
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
JOBS ?= 2

LAYERS := $(wildcard core native grpc_api)
TYPED := $(LAYERS) $(wildcard clients/python/src) $(if $(wildcard bench/*.py),bench)
PROTO_FILES := $(shell find protos -name '*.proto' 2>/dev/null)
# An editable install knows the top-level packages that were there when it was made.
TOP_PACKAGES := $(wildcard core/__init__.py native/__init__.py grpc_api/__init__.py)
NATIVE_FILES := $(wildcard native/*.pyx native/*.pxd native/*.c native/*.h native/extensions.py)
C_FILES := $(filter-out native/_%.c,$(wildcard native/*.c native/*.h))
RELEASED := protos/released.binpb

.DEFAULT_GOAL := help
.PHONY: help build proto check lint types protos-check test house soak bench demo serve format \
	release-protos clean toolchain

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# ── setting up ──────────────────────────────────────────────────────────────────────────────────

build: $(STAMPS)/install ## create .venv and install both distributions into it, editable

toolchain:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: Python 3.11 or newer is needed; say which: make build PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' \
	  || { echo "make: $(PYTHON) lacks venv (Debian: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import sys, sysconfig, pathlib; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' \
	  || { echo "make: $(PYTHON) lacks its C headers (Debian: apt install python3-dev)"; exit 1; }
	@command -v $(firstword $(CC)) >/dev/null \
	  || { echo "make: no C compiler '$(CC)' (Debian: apt install gcc)"; exit 1; }

# A changed list of packages is installed over the old one; only a missing .venv is created.
$(STAMPS)/packages: constraints.txt
	@$(MAKE) --no-print-directory toolchain
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement constraints.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/proto: $(STAMPS)/packages protos/generate.py $(PROTO_FILES) $(wildcard protos/jinku/* protos/core/store/*)
	$(BIN)/python protos/generate.py
	@touch $@

$(STAMPS)/install: $(STAMPS)/packages $(STAMPS)/proto setup.py pyproject.toml clients/python/pyproject.toml $(TOP_PACKAGES) $(NATIVE_FILES)
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt \
	  --editable 'clients/python[cli]' --editable '.[dev]'
	@touch $@

proto: $(STAMPS)/packages ## write the Python messages anew from protos/
	$(BIN)/python protos/generate.py
	@touch $(STAMPS)/proto

# core.store.v1 stays out: rows are rebuilt from the journal, so nobody holds an old one.
release-protos: $(STAMPS)/packages ## freeze the protos: what `buf breaking` compares with from now on
	$(BIN)/buf build protos --exclude-path protos/core --output $(RELEASED)

# ── checking ────────────────────────────────────────────────────────────────────────────────────

check: build lint types protos-check ## every linter and type checker

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(C_FILES),$(BIN)/clang-format --dry-run -Werror $(C_FILES))

types:
	$(if $(TYPED),$(BIN)/mypy $(TYPED) protos/generate.py)
	$(if $(TYPED),$(BIN)/pyright)
	$(if $(wildcard native/*.pyi),$(BIN)/stubtest native --allowlist tests/house/stubtest_allowlist.txt --ignore-unused-allowlist)

protos-check:
	$(if $(PROTO_FILES),$(BIN)/buf lint protos)
	$(if $(wildcard $(RELEASED)),$(BIN)/buf breaking protos --against $(RELEASED),\
	  @echo "buf breaking: skipped, $(RELEASED) is not there yet (make release-protos)")

# A failed check does not hide what the tests say, nor the other way round.
test: build ## build, check, and every test that needs no root
	@checked=yes; $(MAKE) --no-print-directory check || checked=no; \
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile $(PYTEST_ARGS) || exit 1; \
	[ $$checked = yes ] || { echo "make test: the tests pass, make check does not (above)"; exit 1; }

house: build ## only the rules about the repository itself, without building archives
	$(BIN)/python -m pytest -q tests/house --deselect tests/house/test_distributions.py

soak: build ## the campaigns, hours; JINKU_SOAK=0.1 a tenth of each (docs/campaigns.md)
	$(BIN)/python -m pytest -q -m soak --timeout 0 $(PYTEST_ARGS)

bench: build ## measure; writes bench/results.json
	$(BIN)/python -m bench $(BENCH_ARGS)

format: $(STAMPS)/packages ## put Python and C into the common form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(if $(C_FILES),$(BIN)/clang-format -i $(C_FILES))

# ── seeing it ───────────────────────────────────────────────────────────────────────────────────

demo: build ## a small bank: recorded reads verified, released, held, alarmed; the ledger checked
	@$(BIN)/jinku demo $(DEMO_ARGS)

serve: build ## the same bank, left running
	@$(BIN)/jinku demo --serve $(DEMO_ARGS)

clean: ## remove what the build made; .venv stays until `rm -r .venv`
	rm -rf build dist demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf clients/python/src/jinku/v1 clients/python/src/jinku/event clients/python/src/jinku/type core/store
	rm -f native/*.so $(STAMPS)/proto $(STAMPS)/install
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
