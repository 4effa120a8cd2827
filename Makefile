.DEFAULT_GOAL := help
.PHONY: help setup run test chaos lint bench clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it

# sam2 is published as source only: build it against the torch that is already installed, without CUDA kernels.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip "setuptools<82" wheel hatchling
	@echo "installing torch (this is the long part, a few minutes on a slow line)"
	$(PIP) "torch>=2.6" "torchvision>=0.21"
	SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation "sam2>=1.1"
	$(PIP) --editable ".[science,service,demo,postgres,nano-training,dev]"
	touch $@

run: setup ## start Label Studio, Redis, the backend and a worker on a demo project
	$(BIN)/usam-backend up $(if $(IMAGES),--images "$(IMAGES)")

test: setup ## run every test that this machine can run
	$(BIN)/python -m pytest

chaos: setup ## hurt a real stack while labels are made; FAULTS=500 SEED=2 for a long run
	$(BIN)/python -m tests.chaos --faults $(or $(FAULTS),40) --seed $(or $(SEED),1)

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## measure every figure again and append it to bench/results.csv
	$(BIN)/python -m bench

clean: ## remove the environment and caches, never labels or weights
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
