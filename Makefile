# make demo   train the first study's small version and show what came of it
# make test   everything that must hold: style, types, tests
# Both make their own .venv the first time; nothing is needed beforehand but Python 3.11 or newer.

PYTHON ?= python3
BIN    := .venv/bin

.PHONY: demo test format clean

demo: .venv/ready
	$(BIN)/allelse run sigmoid-vs-relu --quick

# One thread a worker: two workers with two threads each would only wait for one another.
test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: pyproject.toml requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "allelse needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv runs
