# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo

export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0
# Packages are compiled when they are first imported and kept so; where this is switched off, every process would compile
# torch and the others again: 20 seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint typecheck unit test-deployment test-flower-next mutants soak evidence bench bench-quick clean

# The version of Flower's tested range that constraints.txt does not pin; `make test-flower-next FLOWER=...` tries another.
FLOWER ?= 1.41.0
FLOWER_VENV := .venv-flower

demo: $(VENV)/installed
	rm -rf $(DEMO_OUT)
	$(BIN)/fedpriv run pmtl --set data.tasks=200 --out $(DEMO_OUT)

test: lint typecheck unit

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy checks what users get: the built wheel, unpacked elsewhere, where the mapped folders are one package.
typecheck: $(VENV)/dev
	$(BIN)/python tests/typecheck.py

unit: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not soak and not deployment" -q -n auto --maxprocesses 4 --dist worksteal

# Flower pins uv, and asks for a newer certifi with each version.
test-flower-next:
	$(PYTHON) -m venv --clear $(FLOWER_VENV)
	grep -vE '^(flwr|uv|certifi)==' constraints.txt > $(FLOWER_VENV)/constraints.txt
	$(FLOWER_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile -c $(FLOWER_VENV)/constraints.txt "flwr==$(FLOWER)" -e ".[dev]"
	OMP_NUM_THREADS=1 $(FLOWER_VENV)/bin/python -m pytest -m "not soak and not deployment" -q -n auto --maxprocesses 4 --dist worksteal

# Plants faults in a copy of the code and asks for a test that notices each (tests/mutants.toml).
mutants: $(VENV)/dev
	$(BIN)/python tests/mutate.py

# A server and nodes as processes over TLS, in network namespaces where they can be made. They mostly wait for each other.
test-deployment: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m deployment -q -n 2 --dist loadfile

soak: $(VENV)/dev
	$(BIN)/python -m pytest -m soak -q

# Both make pfl-research's environment, .venv-pfl, when they need it: pfl and Flower exclude each other.
bench: $(VENV)/dev
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/dev
	$(BIN)/python -m benchmarks --quick

evidence: $(VENV)/dev
	$(BIN)/python -m fedpriv.scenarios.pmtl.evidence
	$(BIN)/python -m fedpriv.scenarios.pmtl.streams
	$(BIN)/python -m fedpriv.scenarios.lrs_ratings.evidence
	$(BIN)/python -m fedpriv.scenarios.lrs_ratings.starved
	$(BIN)/python -m fedpriv.scenarios.lrs_synthetic.figures
	$(BIN)/python -m fedpriv.scenarios.maml.evidence
	$(BIN)/python -m fedpriv.scenarios.maml_attack.tables
	$(BIN)/python -m fedpriv.scenarios.maml_attack.noise
	$(BIN)/python -m fedpriv.scenarios.maml_attack.area
	$(BIN)/python -m fedpriv.scenarios.maml_attack.trends
	$(BIN)/python -m fedpriv.scenarios.lrs_net.evidence

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt $(VENV)/bin/python
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/dev: $(VENV)/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(FLOWER_VENV) .venv-pfl build dist *.egg-info
