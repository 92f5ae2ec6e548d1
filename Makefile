# make demo: set up and run the main job on the built-in benchmark.   make test: set up and run the tests.
# make coverage: the tests again, with the share of the lines that they run.
# uv is used where it is installed, else fetched into .uv/; Python >= 3.11 is found or fetched by uv.

UV := $(shell command -v uv || echo .uv/bin/uv)
BIN := .venv/bin

.PHONY: demo test coverage check setup lock

demo: setup
	$(BIN)/reidgen prepare synth
	$(BIN)/reidgen bench --source synth --methods main --seeds 1

# A process per core and one more, a file of tests in one of them, each with one thread.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: setup
	$(TEST)

coverage: setup
	$(TEST) --cov reidgen --cov-report term:skip-covered

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml datasets.toml | $(UV)
	test -d .venv || $(UV) venv --quiet --python '>=3.11' .venv
	$(UV) pip sync --quiet --compile-bytecode --python .venv --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q reidgen
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet uv

lock: | $(UV)
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --all-extras --python-version 3.11 \
		--output-file requirements.lock pyproject.toml
