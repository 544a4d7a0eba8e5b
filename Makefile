# `make help` lists the targets. Everything runs in .venv of this clone; each target sets up what it needs.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
PURELIB := 'import sysconfig; print(sysconfig.get_path("purelib"))'
DATASET ?= mini
SEEDS ?= 0,1,2
WORDS ?=
.PHONY: help install demo paper test test-slow test-faults test-gpu test-peers lint docs bench bench-gpu bench-peers clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## make .venv with the package and its development tools

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")') -e '.[dev]'
	touch $@

demo: $(STAMP)  ## SE against ME at four times the size on built-in data (about 2 minutes on 2 cores)
	$(BIN)/python -m recsys_collapse.run -m experiment=demo

paper: $(STAMP)  ## every figure and table of the paper: make paper DATASET=mini SEEDS=0,1,2 WORDS='model=dcnv2 --plan'
	$(BIN)/python -m experiments.paper dataset=$(DATASET) seed=$(SEEDS) $(WORDS)

test: $(STAMP)  ## the test suite (a few minutes on 2 cores)
	$(BIN)/python -m pytest -n 2

test-slow: $(STAMP)  ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-faults: $(STAMP)  ## every disk operation of a run fails once, in four ways (about 35 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --workers 2

test-gpu: $(STAMP)  ## tests that need CUDA
	$(BIN)/python -m pytest -m gpu

test-peers: $(PEERS_STAMP)  ## checkpoints that DeepCTR-Torch and RecBole train and save, in a venv of their own
	$(PEERS)/bin/python -m pytest tests/test_peers.py tests/test_diagnose_peers.py

lint: $(STAMP)  ## format, lint and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)  ## the pictures of docs/metrics.md
	$(BIN)/python -m docs.pictures

BENCHMARKS := batches prepare synthetic predict start framework spectrum memory diagnose
bench: $(STAMP)  ## speed, interleaved against plain loops (about an hour and a half); goes on after a missed target
	$(BIN)/python -m benchmarks.table --json benchmarks/results/step-cpu.json; failed=$$?; \
		$(BIN)/python -m benchmarks.report || failed=1; \
		for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || failed=1; done; exit $$failed

bench-gpu: $(STAMP)  ## the table of training steps on CUDA (never run so far: no GPU was at hand)
	$(BIN)/python -m benchmarks.table --device cuda --json benchmarks/results/step-cuda.json
	$(BIN)/python -m benchmarks.report

bench-peers: $(PEERS_STAMP)  ## a training step against DeepCTR-Torch and RecBole, in a venv of their own (perhaps 30 minutes)
	$(PEERS)/bin/python -m pytest tests/test_peers.py
	mkdir -p benchmarks/results
	$(PEERS)/bin/python -m benchmarks.peers --json benchmarks/results/peers.json

# A .pth file shows it the packages of .venv, which stays as it is; what is installed here comes first.
$(PEERS_STAMP): $(STAMP) benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c $(PURELIB) > $$($(PEERS)/bin/python -c $(PURELIB))/dot_venv.pth
	$(PEERS)/bin/pip install --quiet --no-deps -r benchmarks/peers.txt
	touch $@

clean:  ## remove what the targets made, but neither outputs/ nor .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
