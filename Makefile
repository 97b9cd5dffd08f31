# `make demo` and `make test` do all set-up themselves: a virtual environment and the locked install.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-engines test-slow test-gpu lint format gallery bench clean

help:
	@echo "make demo       install, then stylise a real photograph: out/demo.png"
	@echo "make test       install, then lint, type check and test"
	@echo "make test-engines  the engines' tests again on JAX and on PyTorch, which it installs"
	@echo "make test-slow  the tests that take minutes"
	@echo "make bench      every engine beside a plain PyTorch loop (half an hour)"
	@echo "make test-gpu   the tests that need a GPU"
	@echo "make gallery    the contact sheets in docs/, from the pictures in SAMPLES (slow)"

install: $(VENV)/installed

# A TensorFlow wheel built for GPUs runs on machines without one; the lock is the same everywhere.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	touch $@

demo: install
	mkdir -p out
	$(BIN)/stylekeras demo --overwrite -o out/demo.png

# Each file in one process: what it compiles is used again. A process takes some gigabytes.
JOBS ?= 2
test: install lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Keras is on one backend in a process, so each gets its own.
test-engines: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[jax,torch]'
	KERAS_BACKEND=jax $(BIN)/python -m pytest tests/test_engines.py tests/test_parity.py
	KERAS_BACKEND=torch $(BIN)/python -m pytest tests/test_engine_torch.py tests/test_engines.py tests/test_parity.py

MINUTES ?= 30
bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/convergence.py --minutes $(MINUTES) --output out/bench.json --plot out/bench.png

test-slow: install
	$(BIN)/python -m pytest -m slow

test-gpu: install
	$(BIN)/python -m pytest -m gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SAMPLES ?= samples
gallery: install
	$(BIN)/python examples/gallery.py --samples $(SAMPLES)

clean:
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache
