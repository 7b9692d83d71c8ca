# make demo | test | test-oldest | check | format | docs | faults | mutants | study | bench
PYTHON ?= python3
# Linux without a GPU: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)

OLDEST := .venv-oldest
TORCH_OLDEST ?= $(shell sed -n 's/^torch==//p' constraints-oldest.txt)
TESTS ?=

.PHONY: demo test test-oldest check format docs faults mutants study bench clean
.DEFAULT_GOAL := test

$(VENV)/report.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[report]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $@

$(VENV)/docs.stamp: $(VENV)/dev.stamp
	$(INSTALL) -e '.[docs]'
	touch $@

$(OLDEST)/dev.stamp: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	sed 's/^torch==.*/torch==$(TORCH_OLDEST)/' constraints-oldest.txt >$(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/constraints.txt $(PIP_FLAGS) -e '.[dev]'
	touch $@

demo: $(VENV)/report.stamp  ## fit, score and show a VAE on handwritten digits
	$(BIN)/lowerbound fit digits --out runs/digits --force
	$(BIN)/lowerbound score runs/digits digits
	$(BIN)/lowerbound report runs/digits digits

test: $(VENV)/dev.stamp  ## the whole suite
	$(BIN)/python -m pytest --cov

# Linux: from PyPI torch brings 3 GB for CUDA; with PIP_FLAGS as above it does not. TORCH_OLDEST=2.13.0 takes another.
test-oldest: $(OLDEST)/dev.stamp  ## the suite with the lowest declared version of every dependency
	$(OLDEST)/bin/python -m pytest $(TESTS)

check: $(VENV)/dev.stamp  ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/docs.stamp  ## the documentation site: build/docs/docs/index.html
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html -c docs . build/docs

faults: $(VENV)/dev.stamp  ## the fault campaign: benchmarks/results/faults.md
	$(BIN)/python benchmarks/faults.py

mutants: $(VENV)/dev.stamp  ## faults put into the source, and the tests that see them: benchmarks/results/mutants.md
	$(BIN)/python benchmarks/mutants.py --resume

study: $(VENV)/dev.stamp  ## the MNIST study: benchmarks/results/mnist_vae.md
	$(BIN)/python benchmarks/mnist_vae.py

bench: $(VENV)/dev.stamp  ## training speed beside the peers: benchmarks/results/training.md
	$(BIN)/python benchmarks/training.py --pip-flags="$(PIP_FLAGS)"

clean:
	rm -rf $(VENV) $(OLDEST) .coverage runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
