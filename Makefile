# Two commands are all a user needs: `make demo` and `make test`. Both set everything up first.
.DELETE_ON_ERROR:
.PHONY: demo test check setup system clean bench lock

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The pinned Node (node_modules) goes first: jsii and the CDK CLI support 22 and 24.
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/node_modules/.bin:$(PATH)
export JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

demo: setup
	@nitrokit local demo

# The core's own tests must reach every branch of it; coverage slows them, so they run by themselves.
test: setup tests/iam_simulate/node_modules/.ready tests/checkov/.venv/.ready
	@python -m pytest tests/unit/core --cov=nitrokit.core --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100
	@python -m pytest --ignore=tests/unit/core

check: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: setup
	python bench/core.py
	python bench/ledger.py
	python bench/gate.py
	python bench/image.py
	python bench/lambdas.py
	python bench/run.py
	python bench/runtime.py

setup: system $(VENV)/.ready node_modules/.ready

system:
	@sh .ci/system-packages

$(VENV)/.ready: requirements.txt pyproject.toml constructs/nitrokit/_version.py
	@echo "· Python environment (.venv) from requirements.txt: under a minute with a warm pip cache, about two without"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nitrokit needs Python 3.11 or newer; got $$($(PYTHON) --version). Set PYTHON=python3.x" >&2; exit 3; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.txt 2>$(VENV)/pip.log || { grep -v Retrying $(VENV)/pip.log >&2; echo "could not install the pinned Python packages: is the package index reachable?" >&2; exit 3; }
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

node_modules/.ready: package.json package-lock.json
	@echo "· Node tools (node_modules) from package-lock.json"
	@npm ci --no-audit --no-fund --loglevel=error || { echo "could not install the pinned Node packages: is the npm registry reachable?" >&2; exit 3; }
	@touch $@

# An IAM simulator for the tests alone (AGPL; never part of nitrokit).
tests/iam_simulate/node_modules/.ready: tests/iam_simulate/package.json tests/iam_simulate/package-lock.json
	@npm ci --prefix tests/iam_simulate --no-audit --no-fund --loglevel=error || { echo "could not install the pinned Node packages: is the npm registry reachable?" >&2; exit 3; }
	@touch $@

# checkov pins what we do not: an environment of its own.
tests/checkov/.venv/.ready: tests/checkov/requirements.txt
	@echo "· checkov (tests/checkov) from its own lock"
	@$(PYTHON) -m venv tests/checkov/.venv
	@tests/checkov/.venv/bin/python -m pip install --quiet --no-deps --require-hashes -r tests/checkov/requirements.txt 2>$(@D)/pip.log || { grep -v Retrying $(@D)/pip.log >&2; echo "could not install the pinned Python packages: is the package index reachable?" >&2; exit 3; }
	@touch $@

# For maintainers: resolve requirements.txt and lambda/requirements.txt anew (needs uv). A Lambda ships what stands there; its runtime brings botocore and what that needs.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --extra dev --no-emit-package nitrokit -o requirements.txt pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
		--no-emit-package botocore --no-emit-package python-dateutil --no-emit-package six --no-emit-package urllib3 --no-emit-package pycparser \
		-o lambda/requirements.txt lambda/requirements.in

clean:
	rm -rf $(VENV) node_modules tests/iam_simulate/node_modules tests/checkov/.venv cdk.out .nitrokit .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
