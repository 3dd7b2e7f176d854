# Two commands on a machine with python3.11 and make: `make quickstart`, `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The oldest Python that a device may have (JetPack 6 has it). The types of newer numpy are not all read for it.
OLDEST := --python-version 3.10 --disable-error-code no-any-return

# Bytecode is kept even where the environment says not to: the tests start a thousand processes of the same modules.
export PYTHONDONTWRITEBYTECODE =

.PHONY: venv quickstart test lint format schema reference zoo dist clean

venv: $(STAMP)

# The range of torch in pyproject.toml is what keeps a CPU build a CPU build. Bytecode is made where it is first
# imported: pip compiles 18,000 files one after the other, which takes 50 s, and an export uses 3,000 of them. Its first
# run then takes 13.6 s where the next takes 5.6 s.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'
	touch $@

quickstart: venv
	$(BIN)/edgevit quickstart

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n $$(getconf _NPROCESSORS_ONLN)
	$(BIN)/mypy -n $$(getconf _NPROCESSORS_ONLN) $(OLDEST)

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread a worker: torch with more threads than free cores is many times slower than with one. One worker more than
# cores: the fleet's tests wait for each other rather than compute. tests/conftest.py says which files come first.
test: lint
	.ci/chromium.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder

schema: venv
	$(BIN)/python -c "import json; from edgevit.artifact.manifest import Manifest; print(json.dumps(Manifest.model_json_schema(), indent=2))" > docs/reference/manifest.schema.json
	$(BIN)/python -c "import json; from edgevit.bundle.manifest import BundleManifest; print(json.dumps(BundleManifest.model_json_schema(), indent=2))" > docs/reference/bundle.schema.json

reference: venv
	$(BIN)/python benchmarks/python_reference.py > docs/reference/python.md

# Counts what zoo.json lacks. To count a model anew, take it out there first.
zoo: venv
	$(BIN)/python -m edgevit.models.counting

# The wheel and the source of the commit, the same bytes each time; then a trial in an environment without this tree.
dist: venv
	$(BIN)/python .ci/dist.py

clean:
	rm -rf $(VENV) artifacts build dist *.egg-info
