# Two commands do everything on a fresh machine: `make demo` runs the whole story, `make test` all tests.
# Both make a virtual environment in .venv first. Python 3.11 or newer: `make demo PYTHON=python3.12`.
# On a machine with NVIDIA GPUs: `make demo EXTRA=gpu`.

PYTHON ?= python3
EXTRA ?= cpu
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := setup.cfg pyproject.toml constraints.txt

.PHONY: demo test test-long bench chaos chaos-evaluation mutants lint format clean help

help:
	@sed -n 's/^# //p' Makefile | head -3; echo "Targets: demo test test-long bench chaos chaos-evaluation mutants lint format clean"

demo: $(VENV)/installed-$(EXTRA)
	$(BIN)/rust-optuna demo

# Three at a time, because tests spend a fifth of their time waiting for processes that they started. PROCESSES=8: more.
test: $(VENV)/installed-$(EXTRA)-dev
	$(BIN)/python -m pytest -n $(or $(PROCESSES),3) --dist worksteal $(ARGUMENTS)

# What `make test` runs once, on every database and in every variant.
test-long: $(VENV)/installed-$(EXTRA)-dev
	$(BIN)/python -m pytest -n $(or $(PROCESSES),3) --dist worksteal -m "long or not long" $(ARGUMENTS)

# make bench QUICK=1: under three minutes. ARGUMENTS="--only training": one section.
bench: $(VENV)/installed-$(EXTRA)-bench
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(ARGUMENTS)

# make chaos ROUNDS=10: rounds of crashes on each database that is installed here. RESULTS=FILE: go on where it stopped.
chaos: $(VENV)/installed-$(EXTRA)-dev
	@status=0; for backend in sqlite postgresql mariadb; do \
		$(BIN)/python -m tests.chaos --backend $$backend --rounds $(or $(ROUNDS),100) \
			$(if $(RESULTS),--results $(RESULTS)) $(ARGUMENTS) || [ $$? -eq 2 ] || status=1; \
	done; exit $$status

# make chaos-evaluation ROUNDS=10: the same for evaluations, with kills around the opening of the hold-out.
chaos-evaluation: $(VENV)/installed-$(EXTRA)-dev
	@status=0; for backend in sqlite postgresql; do \
		$(BIN)/python -m tests.chaos.evaluation --backend $$backend --rounds $(or $(ROUNDS),30) \
			$(if $(RESULTS),--results $(RESULTS)) $(ARGUMENTS) || [ $$? -eq 2 ] || status=1; \
	done; exit $$status

# make mutants SAMPLE=300 SEED=1: planted faults, each run with the tests of its module; it goes on where it stopped.
mutants: $(VENV)/installed-$(EXTRA)-mutants
	$(BIN)/python -m pytest -q tests/mutants
	$(BIN)/python -m tests.mutants --sample $(or $(SAMPLE),300) --seed $(or $(SEED),1) \
		--results $(or $(RESULTS),benchmarks/results/mutants.jsonl) $(ARGUMENTS)

lint: $(VENV)/installed-$(EXTRA)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-$(EXTRA)-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer: make ... PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-$(EXTRA): $(SOURCES) | $(BIN)/python
	@echo "Installing into $(VENV) (a few hundred megabytes, once) ..."
	$(INSTALL) --editable '.[$(EXTRA)]'
	@touch $@

$(VENV)/installed-$(EXTRA)-dev: $(SOURCES) | $(BIN)/python
	@echo "Installing into $(VENV) (a few hundred megabytes, once) ..."
	$(INSTALL) --editable '.[$(EXTRA),postgresql,mysql,ray,s3,cma-es,dev]'
	@touch $@ $(VENV)/installed-$(EXTRA)

$(VENV)/installed-$(EXTRA)-bench: $(SOURCES) | $(BIN)/python
	@echo "Installing into $(VENV) (a few hundred megabytes, once) ..."
	$(INSTALL) --editable '.[$(EXTRA),bench]'
	@touch $@ $(VENV)/installed-$(EXTRA)

$(VENV)/installed-$(EXTRA)-mutants: $(VENV)/installed-$(EXTRA)-dev
	$(INSTALL) --editable '.[$(EXTRA),mutants]'
	@touch $@
