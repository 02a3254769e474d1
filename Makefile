# make run      set up, then serve on http://127.0.0.1:8000
# make test     set up, then check and run all tests; ARGS="tests/test_retry.py -k jitter" for some
# make check    lint, types, import layers
# make unit     the tests that are quick and need neither server nor tools
# make fmt      format and sort imports
# make config   write config.ini, config/sections.py and schemas/error.code.json anew
# make docs     write the tables of the documentation anew
# make bench    set up, then measure against Express (needs node and npm for that row)
# make pii      print precision and recall of redaction
# make lock     write requirements*.txt anew from pyproject.toml
# make cassettes    record the failure cassettes anew
# make screenshots  take the pictures in docs/ anew (needs Chromium)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: run test check unit fmt bench config docs pii lock cassettes screenshots clean
.DEFAULT_GOAL := run

run: $(VENV)/runtime.stamp
	@echo "==> serving (Ctrl-C stops)"
	@exec $(BIN)/python server.py

# With ARGS the tests that they name run in one process, and nothing else.
ifdef ARGS
test: $(VENV)/dev.stamp $(VENV)/tools.stamp
	@$(BIN)/pytest -rs $(ARGS)
else
test: check $(VENV)/tools.stamp
	@echo "==> pytest"
	@$(BIN)/pytest -rs -n auto
endif

check: $(VENV)/dev.stamp
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> layers"
	@$(BIN)/python tests/layering.py

unit: $(VENV)/dev.stamp
	@$(BIN)/pytest -m "not (server or tools or slow)" $(ARGS)

fmt: $(VENV)/dev.stamp
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/runtime.stamp
	@$(BIN)/python bench/run.py

config: $(VENV)/runtime.stamp
	@$(BIN)/python -m schemas.generate

docs: $(VENV)/runtime.stamp
	@$(BIN)/python docs/generate.py

pii: $(VENV)/dev.stamp
	@$(BIN)/python tests/pii_report.py

cassettes: $(VENV)/runtime.stamp
	@$(BIN)/python cassettes/record_failures.py

screenshots: $(VENV)/dev.stamp $(VENV)/tools.stamp
	@$(BIN)/python tests/screenshots.py

lock:
	@for extra in "-o requirements.txt" "--extra otel -c requirements.txt -o requirements-otel.txt" \
		"--extra otel --group dev -c requirements.txt -o requirements-dev.txt"; do \
		uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
			--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
			pyproject.toml $$extra; done

clean:
	@rm -rf $(VENV) .venv-clients .pytest_cache .mypy_cache .ruff_cache

$(VENV)/runtime.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Sluice needs Python 3.11 or newer; try: make run PYTHON=python3.11"; exit 1; }
	@echo "==> creating $(VENV) and installing requirements.txt"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "Python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/runtime.stamp
	@echo "==> installing requirements-dev.txt"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

$(VENV)/tools.stamp: tests/tools.sh tests/clients/requirements.txt tests/clients/js/package-lock.json tests/axe/package-lock.json $(VENV)/dev.stamp
	@echo "==> installing what the tests use besides, where that is possible"
	@PYTHON=$(PYTHON) sh tests/tools.sh
	@touch $@
