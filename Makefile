# `make demo` and `make test` set everything up on a fresh machine and then run. `make check` and `make test` are what CI runs.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check mutants proof proof-long proof-real proof-smollm2 proof-loop proof-load proof-clients soak bench format clean

demo: $(VENV)/installed
	$(BIN)/tutelage demo

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not proof" -n 2 --dist loadfile --durations=10

check: $(VENV)/installed-dev
	$(BIN)/ruff check tutelage tests bench
	$(BIN)/ruff format --check tutelage tests bench
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not proof" tests/test_imports.py

# make mutants FILE=tutelage/objectives/ppo.py [TESTS="tests/objectives tests/train/test_ppo_wiring.py"]
mutants: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet "mutmut>=3.8,<4"
	$(BIN)/python -m tests.mutants $(FILE) $(TESTS)

proof: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests -m proof
	$(BIN)/python -m tests.proof

proof-long: $(VENV)/installed-dev
	$(BIN)/python -m tests.proof long

proof-real: $(VENV)/installed-dev
	$(BIN)/python -m tests.proof real

proof-smollm2: $(VENV)/installed-dev
	$(BIN)/python -m tests.proof smollm2

proof-loop: $(VENV)/installed-dev
	$(BIN)/python -m tests.proof_loop

proof-load: $(VENV)/installed-dev
	$(BIN)/python -m tests.proof_load

# make proof-clients URL=http://127.0.0.1:8000: langchain-openai and llm against a server
proof-clients: $(VENV)/installed-dev
	$(BIN)/python -m venv $(VENV)/clients
	$(VENV)/clients/bin/pip install --quiet langchain-openai llm
	$(VENV)/clients/bin/python -m tests.proof_clients $(URL)

# make soak [SECONDS_OF_LOAD=600]
soak: $(VENV)/installed-dev
	$(BIN)/python -m tests.proof_soak

# make bench [WORK="generate serve"] [QUICK=1] [ARGS="--smollm2 starters/smollm2"]: see bench/README.md
bench: $(VENV)/installed-dev
	$(BIN)/python -m bench.environments
	$(BIN)/python -m bench $(WORK) $(if $(QUICK),--quick) $(ARGS)

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix tutelage tests bench
	$(BIN)/ruff format tutelage tests bench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info
