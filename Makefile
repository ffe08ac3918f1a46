# The UniForget book. `make help` lists the targets; every target says what it does and ends with the path to open.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup tour book book-only exercises test browser lint format lock clean distclean

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    ?= .venv
PROFILE ?= cpu
# Extra options of pip and of pytest, e.g. make test PYTEST_ARGS="-k masks". Tests run in two processes of one thread;
# `make test WORKERS=0` runs them in one of two.
PIP_ARGS    ?=
WORKERS     ?= 2
PYTEST_ARGS ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

# Two threads, where notebooks and tests do not run two at a time with one each. Nothing is fetched from a model hub.
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1
export JUPYTER_PREFER_ENV_PATH := 1
export JUPYTER_PLATFORM_DIRS := 1
export PYTHONUNBUFFERED := 1
export UNIFORGET_PROFILE := $(PROFILE)
# A bare machine has no git identity, no display and no browser: nothing below needs one, except `make test`.

help:  ## List the targets
	@echo "The UniForget book. Needs Python 3.11 or newer, make, and about 3 GB of disk. Targets:"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo "Start with: make tour   (one notebook), or: make book   (the whole book)"

setup: $(STAMP)  ## Create the virtual environment with the exact tested packages (once)
	@echo "== environment ready: $(abspath $(VENV))  (activate: source $(VENV)/bin/activate)"

# torch comes first: its CPU build where one can be had, so that no gigabytes of CUDA are downloaded for the CPU profile.
# `make setup CUDA=1` keeps PyPI's default build instead.
$(STAMP): pyproject.toml constraints.txt
	@echo "== setup: Python environment in $(VENV), packages pinned in constraints.txt (a few minutes)"
	@"$(PYTHON)" -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"Python {v} is too old: the book needs 3.11 or newer (make PYTHON=/path/to/python3.11)")'
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV) || { echo "cannot create $(VENV): on Debian, install python3-venv"; exit 1; }
	@echo "   torch $(TORCH)"
	@pip() { $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) "$$@" 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2); }; \
	 if [ -n "$${CUDA:-}" ]; then pip "torch==$(TORCH)"; else \
	   pip "torch==$(TORCH)+cpu" 2>/dev/null \
	   || pip "torch==$(TORCH)+cpu" --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null \
	   || pip "torch==$(TORCH)"; fi; \
	 echo "   uniforget_lib and the rest"; \
	 pip --editable '.[book,test]' --constraint constraints.txt
	@touch $(STAMP)

tour: $(STAMP)  ## Run the tour notebook (papermill) and show where its report is
	@test -f notebooks/00_tour.ipynb || { echo "notebooks/00_tour.ipynb is missing"; exit 1; }
	@echo "== tour: running notebooks/00_tour.ipynb on the $(PROFILE) profile"
	@rm -rf _build/tour.new && mkdir -p _build/tour.new  # a run that fails leaves the last good one alone
	@start=$$SECONDS; UNIFORGET_OUT="$(abspath _build/tour.new)" $(BIN)/papermill --kernel python3 \
	   notebooks/00_tour.ipynb _build/tour.new/00_tour.ipynb; echo "   took $$((SECONDS - start)) s"
	@test -f _build/tour.new/report.json || { echo "the notebook ran but wrote no report to _build/tour.new/report.json"; exit 1; }
	@rm -rf _build/tour && mv _build/tour.new _build/tour
	@echo "== executed notebook: $(abspath _build/tour/00_tour.ipynb)"
	@echo "== report:            $(abspath _build/tour/report.json)"

book: $(STAMP)  ## Set up, execute the notebooks and build the HTML book
	@$(BIN)/python tools/book.py execute
	@$(BIN)/python tools/book.py build

book-only: $(STAMP)  ## Build the HTML again without executing (uses the last execution)
	@$(BIN)/python tools/book.py build

exercises: $(STAMP)  ## Write the student notebooks again from book/exercises
	@$(BIN)/python tools/exercises.py write

test: $(STAMP) browser book  ## Set up, build the book once and run every test
	@echo "== test: pytest on tests/ (the browser tests read the book in _build/html)"
	@UNIFORGET_REQUIRE_BOOK=1 $(if $(filter-out 0 1,$(WORKERS)),OMP_NUM_THREADS=1) $(BIN)/python -m pytest tests -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)
	@if [ -d _build/screenshots ]; then echo "== screenshots of the book: $(abspath _build/screenshots)"; fi
	@echo "== all tests passed; the book: $(abspath _build/html/index.html)"

browser:
	@bash tools/chromium.sh

lint: $(STAMP)  ## Check the code with ruff
	@echo "== lint: ruff check and format"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== clean: $(CURDIR)"

format: $(STAMP)  ## Let ruff fix and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@echo "== formatted: $(CURDIR)"

lock: $(STAMP)  ## Maintainers: write the installed versions to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/'; } > constraints.new
	@mv constraints.new constraints.txt && touch $(STAMP)
	@echo "== written: $(abspath constraints.txt)"

clean:  ## Remove everything that was built (keeps the environment)
	@rm -rf _build .pytest_cache .ruff_cache
	@echo "== removed: $(abspath _build)"

distclean: clean  ## Remove the environment too
	@rm -rf $(VENV) *.egg-info
	@echo "== removed: $(abspath $(VENV))"
