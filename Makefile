# make install | demo | test | test-all | lint | types | bench | zoo | docs
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# `torch==2.13.0`, asked for exactly, is a CPU build where one is offered; a bare `torch` pulls gigabytes of CUDA.
# Another build: make install TORCH="--index-url URL torch==2.13.0"
TORCH  ?= torch==2.13.0
export NO_MKDOCS_2_WARNING := 1

.PHONY: install demo test test-all lint types bench bench-predictions zoo docs clean
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group test --group lint --group docs
	touch $@

demo: install
	$(BIN)/mw demo

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: install
	$(BIN)/pyright

# make bench PEER=/path/to/python; with BENCH="--size 0.1B", which narrows merging, without banks, cascades and adapters
bench: install
	$(BIN)/python -m benchmarks.merge $(if $(PEER),--peer $(PEER)) $(BENCH)
	$(BIN)/python -m benchmarks.chat
ifeq ($(BENCH),)
	$(BIN)/python -m benchmarks.predictions $(if $(PEER),--peer $(PEER))
	$(BIN)/python -m benchmarks.cascade
	$(BIN)/python -m benchmarks.adapters
endif

# make bench-predictions PEER=/path/to/python BENCH="--runs 1"
bench-predictions: install
	$(BIN)/python -m benchmarks.predictions $(if $(PEER),--peer $(PEER)) $(BENCH)

# make zoo ZOO="--suite digits --seeds 1"
zoo: install
	$(BIN)/python -m benchmarks.zoo $(ZOO)

docs: install
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site demo build dist
