.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast chaos fuzz lint docs pictures lock bench bench-gpu clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed
TESTS_AT_ONCE ?= 2

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it, as the lock files have it

# sam2 is published as source only: build it against the torch that is already installed, without CUDA kernels.
# TORCH_ARGS chooses another build of torch, which then is not checked against the lock.
$(STAMP): pyproject.toml requirements/torch.txt requirements/all.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch (this is the long part, a few minutes on a slow line)"
	$(if $(TORCH_ARGS),$(PIP) "setuptools<82" wheel hatchling editables torch torchvision $(TORCH_ARGS),$(PIP) --require-hashes --no-deps -r requirements/torch.txt)
	SAM2_BUILD_CUDA=0 $(PIP) --require-hashes --no-deps --no-build-isolation -r requirements/all.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

run: setup ## start everything on a demo project; IMAGES=folder or PHOTOS=1 for other pictures, MODEL=nano-l, WORKERS=2
	$(BIN)/usam-backend up $(if $(IMAGES),--images "$(IMAGES)",$(if $(PHOTOS),--photos)) $(if $(MODEL),--model "$(MODEL)") $(if $(WORKERS),--workers "$(WORKERS)")

test: setup ## run every test that this machine can run, and show what they cover
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder --cov=usam --cov=backend --cov-report=term:skip-covered

test-fast: setup ## run the quick tests: no Label Studio, no browser, no Redis
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal -m "not slow and not integration and not e2e"

chaos: setup ## hurt a real stack while labels are made; FAULTS=500 SEED=2 DATABASE=postgresql for a long run
	$(BIN)/python -m tests.chaos --faults $(or $(FAULTS),40) --seed $(or $(SEED),1) --database $(or $(DATABASE),sqlite)

fuzz: setup ## send the service 100,000 requests that nobody thought of
	FUZZ_REQUESTS=100000 $(BIN)/python -m pytest tests/backend/web/test_fuzz.py -s --timeout 0

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## make the documentation site in site/, with every link checked
	$(BIN)/mkdocs build --strict

pictures: setup ## make the pictures of the README and the docs again: the demo, labelled, in a real browser
	$(BIN)/python -m tests.pictures $(if $(OUT),--out "$(OUT)")

lock: setup ## write the lock files again, from pyproject.toml and the newest releases
	test -x $(BIN)/uv || $(PIP) uv
	requirements/lock.sh $(BIN)/uv

bench: setup ## measure every figure again and append it to bench/results.csv
	$(BIN)/python -m bench

bench-gpu: setup ## measure every figure of speed on a GPU, in less than ten minutes
	$(BIN)/python -m bench.gpu

clean: ## remove the environment and caches, never labels or weights
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis site
