# `make` says what there is to do. Everything runs in .venv, made on first use; another interpreter: make PYTHON=python3.13 test
.DEFAULT_GOAL := help
.NOTPARALLEL: # two targets would install into one environment
.PHONY: help book notebooks test test-oldest lab lint bench clean

PYTHON ?= python3
ARGS ?=
PROCESSES ?= 2
BIN := .venv/bin
# What `book` needs alone is installed without what `test` needs besides: a reader waits a third less.
BOOK := .venv/.with-book
TEST := .venv/.with-test
BUILT := book/_build
# pip does not compile what it installs, so modules are compiled when they are first imported, and that must be kept.
export PYTHONDONTWRITEBYTECODE :=
CELLS := csra_lab data benchmarks/results pyproject.toml # what the cells of the chapters read

help: ## say what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s  %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'The first run makes .venv, which takes up to 6 GB of disk, most of it torch.'
	@echo 'ARGS goes to the program: make test ARGS="-k metrics", make lab ARGS="--no-browser".'
	@echo 'Two processes share the tests; make test PROCESSES=0 uses none but the first, as a debugger needs.'

checksum = find $(1) \( -name __pycache__ -o -name _build -o -name .ipynb_checkpoints \) -prune -o -type f \
	-exec cksum {} + | LC_ALL=C sort | cksum

# Chapters are served from the execution cache, which looks at their code cells and at nothing else. So the cache is
# thrown away when anything that the cells read has changed. Pages are made anew when anything at all has changed.
book: $(BOOK) ## execute the chapters and build the book
	@now=$$($(call checksum,$(CELLS))); \
	if [ "$$now" != "$$(cat $(BUILT)/.sources 2>/dev/null)" ]; then \
	    rm -rf $(BUILT) && mkdir -p $(BUILT) && echo "$$now" > $(BUILT)/.sources; \
	fi
	@now=$$($(call checksum,$(CELLS) book _config.yml)); \
	if [ "$$now" = "$$(cat $(BUILT)/.pages 2>/dev/null)" ] && [ -e $(BUILT)/html/index.html ]; then \
	    touch $(BUILT)/html/index.html; echo 'Nothing has changed since the last build.'; \
	else \
	    rm -rf $(BUILT)/html $(BUILT)/jupyter_execute $(BUILT)/.doctrees $(BUILT)/.pages; \
	    $(BIN)/jupyter-book build book --config _config.yml --path-output book --all -W -n --keep-going $(ARGS) && \
	    echo "$$now" > $(BUILT)/.pages; \
	fi
	@echo && echo 'The book is built. Open $(CURDIR)/$(BUILT)/html/index.html'

notebooks: book ## write the executed chapters as notebooks, for Jupyter and Colab
	@echo 'The notebooks are in $(CURDIR)/$(BUILT)/html/notebooks'

test: $(TEST) ## run all tests
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile $(ARGS)

# A second environment: as large as the first, and made anew each time.
test-oldest: ## run all tests with the oldest versions that are allowed
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/oldest.py > .venv-oldest/oldest.txt
	.venv-oldest/bin/pip install -q -c .venv-oldest/oldest.txt -e '.[book,test]'
	.venv-oldest/bin/python -m pytest $(ARGS)

# JupyterLab opens copies, which git ignores: running and saving a chapter changes no source.
lab: $(BOOK) ## open copies of the chapters in JupyterLab, as notebooks
	@$(BIN)/python book/_ext/lab_copies.py chapters
	$(BIN)/jupyter lab chapters $(ARGS)

lint: $(TEST) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(TEST) ## run every file in benchmarks/ and print its table
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); echo; done

clean: ## remove the built book and all caches; .venv and runs/ stay
	rm -rf $(BUILT) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find csra_lab tests benchmarks book -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# pip is silent where nobody watches, and shows its progress in a terminal. Modules are compiled when they are imported:
# compiling all of torch takes a minute, and few of its files are used.
$(BOOK): EXTRAS := book
$(TEST): EXTRAS := book,test
$(BOOK) $(TEST): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, and this is " + sys.version.split()[0] + ": say which to use, as in make PYTHON=python3.13 test")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv; the first time this takes some minutes and up to 6 GB of disk, most of it torch.'
	@if [ -t 1 ]; then quiet=; else quiet='-q -q'; fi; \
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile $$quiet -e '.[$(EXTRAS)]'
	@touch $(BOOK) $@
