# SPDX-License-Identifier: MIT
# Needs GNU make and a Python 3.8 to 3.11; everything else goes into .venv. `make PYTHON=/path/to/python ...` chooses.

VENV := .venv
VENV_DOCS := .venv-docs
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
MODEL ?= digits_lenet

# The pyenv shims python3.x may exist and yet not run, so each candidate is really executed.
PYTHON ?= python3.11 python3.10 python3.9 python3.8 python3

# One more than there are cores: some tests wait for other processes.
JOBS ?= $(shell $(PY) -c 'import os; print(len(os.sched_getaffinity(0)) + 1)' 2>/dev/null || echo auto)

# Results do not depend on the number of cores; set by the caller, it stays.
export OMP_NUM_THREADS ?= 1

# A stamp carries the checksum of what was installed: other content, another stamp, whatever the file times say.
# It is written last, so an interrupted install leaves none.
checksum = $(firstword $(shell cat $(1) | cksum))
MADE := $(VENV)/.stamp-importable
RUNTIME := $(VENV)/.stamp-runtime-$(call checksum,requirements.txt)
TESTS := $(VENV)/.stamp-tests-$(call checksum,requirements.txt tests/requirements.txt)
DOCS := $(VENV_DOCS)/.stamp-docs-$(call checksum,docs/requirements.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo install native test test-slow lint docs browser bench clean distclean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: native ## quantize a small network on the embedded digits and print its accuracy
	@$(PY) examples/simulate_quantization.py --model $(MODEL) --quant-type channel --quantize-input-offline --calib-mode sqnr

install: $(RUNTIME) ## make .venv with the pinned requirements and nothing else

native: $(RUNTIME) ## compile the native operators where a C++ compiler is found (done by demo, test and bench)
	@$(PY) -m quantize.ops build >/dev/null

test: $(TESTS) native ## run the tests, a process a core and one more (PYTEST_ARGS="-k name" chooses)
	@$(PY) -m pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(TESTS) native ## run the slow tests: accuracy and whole networks
	@$(PY) -m pytest -m slow $(PYTEST_ARGS)

lint: $(TESTS) ## check the code with ruff, its types with mypy
	@$(PY) -m ruff check .
	@$(PY) -m mypy

browser: $(TESTS) native ## test the report's page in a headless Chromium (installed where apt can)
	@command -v chromedriver >/dev/null || { echo "Installing chromium and its driver" >&2; \
	    apt-get install -y -qq chromium chromium-driver >/dev/null 2>&1 || echo "apt cannot install them" >&2; }
	@$(PY) -m pytest -m "slow or not slow" tests/browser $(PYTEST_ARGS)

bench: $(TESTS) native ## run the benchmarks in tests/bench one after the other
	@failed=0; for script in tests/bench/[a-z]*.py; do \
	    test -f "$$script" || { echo "no benchmarks in tests/bench"; break; }; \
	    echo "== $$script"; $(PY) "$$script" || failed=1; \
	done; exit $$failed

docs: $(DOCS) ## build the site in build/site (broken links and warnings are errors)
	@said=$$(NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --strict 2>&1) || \
	    { echo "$$said" | grep -v ^INFO >&2; exit 1; }  # --quiet would hide warnings from --strict, too
	@echo "build/site/index.html"

clean: ## remove caches and build products; .venv and results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis quantize/ops/_native
	find . -path './.venv*' -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv and .venv-docs too
	rm -rf $(VENV) $(VENV_DOCS)

# A .venv that works is kept, whoever made it; a half-made one is made anew. The .pth file makes the project importable
# in place: unlike an editable install it needs no build tool, sees packages added later, and being relative (the folder
# four above site-packages) follows the tree when it is moved.
$(MADE):
	@if $(PY) -c 'import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null \
	        && $(PY) -m pip --version >/dev/null 2>&1; then \
	    echo "Keeping the existing $(VENV)" >&2; \
	else \
	    found=; no_venv=; \
	    for python in $(PYTHON); do \
	        version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	        case "$$version" in 3.8|3.9|3.10|3.11) ;; *) continue ;; esac; \
	        if "$$python" -c 'import venv, ensurepip' 2>/dev/null; then found=$$python; break; fi; \
	        no_venv=$${no_venv:-$$version}; \
	    done; \
	    if [ -z "$$found" ] && [ -n "$$no_venv" ]; then \
	        echo "Python $$no_venv has no venv/ensurepip module: install it (Debian, Ubuntu: apt-get install" \
	            "python$$no_venv-venv) or choose another Python: make PYTHON=/path/to/python" >&2; exit 1; \
	    elif [ -z "$$found" ]; then \
	        echo "No usable Python 3.8 to 3.11 (tried: $(PYTHON)): install one (Debian, Ubuntu: apt-get install" \
	            "python3.11 python3.11-venv; or pyenv install 3.11) or name it: make PYTHON=/path/to/python" >&2; exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$found (Python $$version)" >&2; \
	    "$$found" -m venv --clear $(VENV) >&2; \
	fi
	@$(PY) -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/gluon_quantize.pth", "w").write("../../../..\n../../../../examples\n")'
	@touch $@

$(RUNTIME): $(MADE)
	@rm -f $(VENV)/.stamp-runtime-*
	@echo "Installing requirements.txt (500 MB unpacked; once)" >&2
	@$(PIP) install -q --no-deps -r requirements.txt >&2
	@$(PY) -c 'import mxnet, gluoncv, onnx' >&2 || { echo "The installed packages do not import: install what" \
	    "is missing (libgomp.so.1, libquadmath.so.0: apt-get install libgomp1 libquadmath0 on Debian and Ubuntu)" \
	    "or start over with make distclean" >&2; exit 1; }
	@touch $@

$(TESTS): $(RUNTIME)
	@rm -f $(VENV)/.stamp-tests-*
	@echo "Installing tests/requirements.txt" >&2
	@$(PIP) install -q --no-deps -r tests/requirements.txt >&2
	@touch $@

# The site's tools have an environment of their own: nothing in it has to agree with MXNet's requirements.
$(DOCS): $(MADE)
	@rm -f $(VENV_DOCS)/.stamp-docs-*
	@test -x $(VENV_DOCS)/bin/python || $(PY) -m venv $(VENV_DOCS) >&2
	@echo "Installing docs/requirements.txt (once)" >&2
	@$(VENV_DOCS)/bin/python -m pip --disable-pip-version-check --no-input install -q --no-deps -r docs/requirements.txt >&2
	@touch $@
