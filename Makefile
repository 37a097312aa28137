# The commands of this project. `make` lists them.
.DEFAULT_GOAL := help
.PHONY: help run simulator client test test-all check types compiled format generated recording bench bench-scale clean

# The first Python at hand that the service runs on (3.11 to 3.13).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && echo $$python && break; done)
BIN := .venv/bin
TEST ?= tests
export PYTHONDONTWRITEBYTECODE := # keeps compiled modules: the tests start Python hundreds of times

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/simulator ## serve on http://localhost:5000 (PORT=5001 make run: elsewhere); without a token, simulated
	@exec $(BIN)/python app.py --simulate-without-token

simulator: .venv/simulator ## run the simulator of Replicate and Gemini alone, on http://127.0.0.1:8000
	@exec $(BIN)/python -m simulator

client: .venv/build ## build the Python client and client/compat, each as a wheel and an sdist in client/dist; the service serves the wheels at /client/
	rm -rf client/dist
	$(BIN)/python -m build --no-isolation --outdir client/dist client
	$(BIN)/python -m build --no-isolation --outdir client/dist client/compat

test: .venv/dev ## run the tests but the slow ones: five minutes
	$(BIN)/python -m pytest -n 6 --dist worksteal --durations 10 $(if $(SLOW),,-m "not slow") $(TEST)

test-all: ## run all tests, with kills, long state machines and sockets at scale: twelve minutes
	$(MAKE) test SLOW=1

check: .venv/dev ## everything CI checks: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) -j2 types compiled
	@if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; else echo "hadolint: no build for this machine, left out"; fi
	$(MAKE) test-all

types: .venv/dev
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 client/replicate_concurrent
	$(BIN)/mypy --python-version 3.10 --platform darwin client/replicate_concurrent

compiled: .venv/dev # otherwise each worker of pytest compiles all test modules, all at one time
	$(BIN)/python -m pytest --collect-only -qq >/dev/null

format: .venv/dev ## format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generated: .venv/dev ## write the tables of docs/, and .env.example, from the declarations
	$(BIN)/python -m docs.generate

recording: .venv/dev ## compare what the service answers with what 0.7.0 did, to 520 requests: half a minute
	$(BIN)/python -m tests.support.recording.recorder .recording.json
	$(BIN)/python -m tests.support.recording.recorder --compare tests/data/recording-0.7.0.json.xz .recording.json

bench: .venv/dev .venv-bench/made ## measure against the simulator, into bench/results.md: half an hour (AGAINST=REF: compare with that commit)
	$(BIN)/python -m bench $(if $(AGAINST),--against $(AGAINST))

bench-scale: .venv/dev ## measure many processes on one PostgreSQL, into bench/results-scale.md: two hours (PART=kills: one part, SCALE=0.1: a tenth, not written)
	$(BIN)/python -m bench.scale --scale $(or $(SCALE),1) $(PART)

clean: ## remove generated files, except the service's data/
	rm -rf .venv .venv-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/simulator: requirements.txt requirements-simulator.txt | .venv/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-simulator.txt
	@touch $@

.venv/build: requirements-build.txt | .venv/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-build.txt
	@touch $@

.venv/dev: requirements.txt requirements-simulator.txt requirements-postgres.txt requirements-build.txt requirements-dev.txt | .venv/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ .venv/simulator .venv/build

.venv/made:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed, with venv; make run PYTHON=/path/to/python names one."; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv-bench/made: requirements-bench.txt | .venv/made
	$(BIN)/python -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $@
