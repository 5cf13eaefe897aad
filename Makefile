# One virtual environment for everything; every target makes it first if it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Test workers share the cores: threads of their own would only fight.
WORKERS ?= 2

.PHONY: help install demo test lint docs bench torture clean

help:
	@echo "make demo   compare every encoder on a simulated subject (under 3 minutes after the install)"
	@echo "make test   run the whole test suite"
	@echo "make lint   ruff, mypy, import layers"
	@echo "make docs   build the documentation into docs/_build/html"
	@echo "make bench  run the benchmarks whose tables the documentation shows"
	@echo "make torture  kills, mutated inputs, odd names, two runs at once (an hour; goes on where it stopped)"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/brainenc demo --out brainenc-demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: install
	$(BIN)/python benchmarks/real_input.py
	$(BIN)/python benchmarks/synbrain_vs_ridge.py
	$(BIN)/python benchmarks/synbrain_ablation.py
	$(BIN)/python benchmarks/compare_encoders.py
	$(BIN)/python benchmarks/calibration.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/memory_preflight.py
	$(BIN)/python benchmarks/similar_pictures.py --out docs/results
	$(BIN)/python benchmarks/leak_checks.py --clean 150 --subjects 10 --sizes 200,600 --out docs/results

torture: install
	PYTHONPATH=benchmarks:tests $(BIN)/python -m torture --out docs/results

clean:
	rm -rf docs/_build docs/api/generated docs/gallery brainenc-demo brainenc-torture .pytest_cache .mypy_cache .ruff_cache
