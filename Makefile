# Everything a fresh machine needs: `make demo` and `make test`; both install into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

# Spinning OpenMP threads cost four times the CPU on shared cores.
export OMP_WAIT_POLICY := passive
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: install demo test test-unit test-integration test-e2e check lint types contracts docs \
	rehearse faults image-check clean

install: $(VENV)/installed

# The stamp is newer than what it depends on only after a complete install.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); \
	sys.exit(0 if ok else f"rayasr needs Python 3.11 to 3.13, found {sys.version.split()[0]}; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

demo: install
	$(BIN)/rayasr data synthesize $(RUN)/corpus
	$(BIN)/rayasr run configs/demo.yaml --corpus $(RUN)/corpus --out $(RUN)

test: test-unit test-integration test-e2e

test-unit: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 tests/unit tests/property

test-integration: install
	$(BIN)/python -m pytest tests/integration

test-e2e: install
	$(BIN)/python -m pytest tests/e2e

check: lint types contracts test-unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

contracts: install
	$(BIN)/lint-imports

# Longer than CI has time for; what they print is kept in benchmarks/results.
RUNNER ?= processes
rehearse: install
	$(BIN)/python benchmarks/bench_cluster.py --runner $(RUNNER)

faults: install
	$(BIN)/python benchmarks/bench_faults.py --runner $(RUNNER)

image-check: install
	$(BIN)/python docker/build_here.py

# Pages made from the code; a unit test fails when they are stale.
docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
