# The two commands that matter: `make up` runs SMCP, `make check` is what every change passes.
# Nothing needs to be installed by hand but Python 3.11 or newer, npm, git and make; scripts/bootstrap does the rest.

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help up setup dev clients check format lint types layers unit test bench soak fuzz docs fix lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: setup ## Run SMCP with a demo tenant; PORT=8080, or ARGS="--host … --data …"
	@exec $(BIN)/smcp up $(if $(PORT),--port $(PORT)) $(ARGS)

setup: ## Install what running needs (part of `make up`)
	@scripts/bootstrap run

dev: ## Install what working on SMCP needs (part of `make check` and `make test`)
	@scripts/bootstrap dev

clients: dev
	@cd tests && ../$(BIN)/python -c "from support import environments, node; node.ensure(); environments.ensure()"

format: dev
	$(BIN)/ruff format --check

lint: dev
	$(BIN)/ruff check

types: dev
	$(BIN)/pyright

layers: dev
	$(BIN)/lint-imports

unit: dev
	$(PYTEST) -n 2 --dist loadfile -m "not real"

check: format lint types layers unit ## Format, lint, types, layers, quick tests: under two minutes

# What compares times runs first and alone; then all the rest in one run, so that its closing line counts it. Files are
# not split over workers: a file's real parts (a platform, a cluster) are started once.
test: format lint types layers clients ## Everything that `make check` does, and the tests with real parts
	$(PYTEST) -v -n 0 -m alone
	$(PYTEST) -v -n 2 --dist loadfile -m "not alone"

bench: dev ## Print what a call costs, beside a yardstick and peers of the same run; ARGS="--quick", ARGS="--profile"
	$(BIN)/python -m bench $(ARGS)

soak: dev ## Mixed load with a kill each second, MINUTES=60; fails on any error that no kill explains, and on growth
	$(BIN)/python -m bench.soak --minutes $(or $(MINUTES),60) $(ARGS)

fuzz: dev ## Try CASES=1000000 broken inputs on every reader and the edge; fails on a finding; ARGS="--seed …"
	cd tests && ../$(BIN)/python -m fuzz --cases $(or $(CASES),1000000) $(ARGS)

docs: dev ## Write the tables of the reference pages from the code
	cd tests && ../$(BIN)/python -m checks.reference

fix: dev ## Format, and repair what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: dev ## Resolve the requirements anew and write requirements/*.txt
	scripts/lock $(ARGS)

clean: ## Remove what tools left here, the virtual environment included; no data of SMCP
	rm -rf .venv .fuzz .pytest_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache dist tests/clients/node_modules tests/clients/python/.environments
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
