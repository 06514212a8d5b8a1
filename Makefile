# AutoTrain. `make` alone lists what there is.
#
## make demo          train an agent and compare it with schedules; results in runs/demo/
##                    (DATASET=fashion: another dataset than digits)
## make test          the tests, in two processes (WORKERS=4: in four)
## make test-all      the slow tests too
## make test-clients  environment and controller with other people's software (in an environment of its own)
## make lint          ruff and mypy
## make format        let ruff rewrite what it can
## make docs          the pages as a site, in site/; a warning fails
## make bench         speed, against plain torch and this machine's limit
## make bench-peers   speed, against other packages (made in an environment of their own)
## make bench-evolution   evolution, against plain torch and other libraries (likewise)
## make bench-classifiers   classifiers trained by evolution, against gradients and other libraries (likewise; hours)
## make bench-scaling   a generation on Ray, and simulated on up to 10,000 workers
## make wheel         the wheel with the compiled engine, in dist/, tried in an empty environment
## make sanitize      the engine's tests with AddressSanitizer and UndefinedBehaviorSanitizer (needs g++)
## make install       only make .venv; every target above does so where it is needed
## make clean         remove caches and build products; runs/ stays
## make distclean     also remove the virtual environments
##
## More arguments:    make demo ARGS=--help, make test ARGS='-k rewards'
## Another Python:    make install PYTHON=python3.12
## Real image sets:   export AUTOTRAIN_DATA=folder, then make test

.POSIX:

PYTHON = python3
DATASET = digits
WORKERS = 2
ARGS =

PY = .venv/bin/python
STAMP = .venv/installed
CLIENTS_PY = .venv-clients/bin/python
CLIENTS_STAMP = .venv-clients/installed

# One group of tests stays in one process: they share what is costly to make.
PYTEST = -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: help demo test test-all test-clients lint format docs bench bench-peers bench-evolution bench-classifiers
.PHONY: bench-scaling
.PHONY: wheel sanitize install clean distclean

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

demo: $(STAMP)
	@$(PY) -m agents demo --dataset $(DATASET) $(ARGS)

test: $(STAMP)
	@$(PY) $(PYTEST) $(ARGS)

# A later -m takes back that of pyproject.toml.
test-all: $(STAMP)
	@$(PY) $(PYTEST) -m "not clients" -o faulthandler_timeout=3600 $(ARGS)

test-clients: $(CLIENTS_STAMP)
	@$(CLIENTS_PY) -m pytest -m clients $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet $(ARGS)
	@echo 'Written to site/index.html'

bench: $(STAMP)
	@$(PY) -m benchmarks.speed $(ARGS)

# The peers need old dependencies; the script keeps them in .venv-dacbench.
bench-peers: $(STAMP)
	@$(PY) -m benchmarks.peers $(ARGS)

bench-evolution: $(STAMP)
	@$(PY) -m benchmarks.evolution $(ARGS)

bench-classifiers: $(STAMP)
	@$(PY) -m benchmarks.classifiers $(ARGS)

bench-scaling: $(STAMP)
	@$(PY) -m benchmarks.scaling $(ARGS)

wheel: $(STAMP)
	@$(PY) -m build --wheel --outdir dist
	@$(PY) -m pytest -m "slow or not slow" -k wheel tests/test_package.py $(ARGS)

SANITIZERS = -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
sanitize: $(STAMP)
	@CXX=g++ AUTOTRAIN_CXXFLAGS="$(SANITIZERS)" AUTOTRAIN_CACHE=.venv/sanitized ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  $(PY) -m pytest -p no:cacheprovider -k "not without_a_compiler" tests/training/test_native*.py $(ARGS)

install: $(STAMP)

# One installation for all targets: PyTorch is nearly all of it, the tools for tests and checks are not
# worth a second stamp. The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("AutoTrain needs Python 3.10 or newer, this is %d.%d: make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'Installing AutoTrain and what it needs into .venv: a minute or two plus the download, several GB ...'
	@$(PY) -m pip install -qq --disable-pip-version-check -e '.[agents,dev]'
	@touch $(STAMP)
	@echo 'Installed.'

# Apart from .venv: what other people's software needs must not decide what AutoTrain is tested with.
$(CLIENTS_STAMP): pyproject.toml
	@$(CLIENTS_PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-clients
	@echo 'Installing AutoTrain and software of others into .venv-clients ...'
	@$(CLIENTS_PY) -m pip install -qq --disable-pip-version-check -e '.[agents,clients,dev]'
	@touch $(CLIENTS_STAMP)
	@echo 'Installed.'

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name '.venv*' -prune -o -name .git -prune -o \
	    '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf '{}' +

distclean: clean
	rm -rf .venv .venv-clients .venv-dacbench .venv-evolution
