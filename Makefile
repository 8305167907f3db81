# Needs Python >= 3.10 and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test coverage jitter test-lowest bench bench-collection format clean

demo: .venv/demo
	$(BIN)/holdfast demo

test: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# The same tests, and which lines they run; that takes half as long again.
coverage: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-report=term

# The tests with other rounding, as another processor has it; see tests/jitter.py.
jitter: .venv/test
	for seed in 1 2; do OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -p tests.jitter --jitter $$seed || exit; done

# The tests with the lowest versions that pyproject.toml allows, without the frameworks. Old libraries warn about new
# ones: there warnings are no errors.
test-lowest: .venv-lowest/test
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n 2 -o filterwarnings=default \
		--ignore src/holdfast/gradients/frameworks.py

# At most 55 minutes, the kind `sets` first; then what is missing when run again. `make bench BENCH=--list` says what
# that is.
bench: .venv/bench
	$(BIN)/python benchmarks/run_peers.py $(BENCH)

# At most 45 minutes, then what is missing when run again. `make bench-collection COLLECTION=--list` says what that is.
bench-collection: .venv/bench
	$(BIN)/python benchmarks/collection.py $(COLLECTION)

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# One file per set of packages, renewed when the requirements change.
.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[report]'
	touch $@

.venv/test: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	# GluonTS asks for pandas below 3 and works with 3: without its demands it leaves the others alone.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps 'gluonts>=0.17,<0.18' 'toolz<1.3'
	touch $@

.venv-lowest/test: pyproject.toml constraints.txt tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet -c constraints.txt -c .venv-lowest/lowest.txt -e '.[report]' \
		pytest pytest-xdist pytest-cov hypothesis
	touch $@

.venv/bench: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	# Darts without its extra: that asks for a Lightning below 2.5.3, NeuralForecast for 2.6.6; it works with the newer.
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	# As above: without its demands.
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps 'gluonts>=0.17,<0.18' 'toolz<1.3'
	touch $@

clean:
	rm -rf .venv .venv-lowest
