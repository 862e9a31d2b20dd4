# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: env demo docs lint test test-quick test-slow test-docs test-gpu test-arviz1 bench bench-gpu reproduce reproduce-small clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: env
	$(BIN)/pyro-hvae demo --out runs/demo --overwrite

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu and not shared"

# The inner loop: a bit of every room, without training to speak of; under 90 seconds on two cores.
QUICK := tests/test_arguments.py tests/test_wrong_values.py tests/test_package.py tests/programs/test_pairs.py \
  tests/programs/test_user_programs.py tests/bounds/test_objectives.py tests/bounds/test_structure.py tests/bounds/test_traces.py \
  tests/sampling/test_diagnostics.py tests/sampling/test_linear_gaussian.py tests/storage tests/stimuli/test_patches.py \
  tests/stimuli/test_parametric.py tests/stimuli/test_readers.py tests/stimuli/test_whitening.py tests/training/test_schedules.py \
  tests/training/test_run_directory.py \
  tests/analysis/test_uncertainty.py tests/analysis/test_bound_terms.py tests/report/test_needs.py tests/report/test_files.py

test-quick: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu and not shared" $(QUICK)

test-slow: env
	$(BIN)/python -m pytest -m slow

# The tutorials, as scripts; `make docs` runs them too.
test-docs: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m docs tests/docs

test-gpu: env
	$(BIN)/python -m pytest -m gpu

# The site, in docs/_build/html: tutorials are run (and kept, in docs/_build/executed, until they change), warnings are errors,
# links are followed. Nothing is fetched once the extra `docs` is installed.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# The papers' findings (docs/reproduction.md); IMAGES and TEXTURES are folders of photographs.
IMAGES   ?= embedded
TEXTURES ?= embedded

reproduce: env
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reproduce --images $(IMAGES) --textures $(TEXTURES) $(REPRODUCE)

reproduce-small: env
	$(BIN)/python benchmarks/reproduce --small --out runs/reproduce-small $(REPRODUCE)

# Times of training steps against others' (docs/benchmarks.md); BENCH="--only host --rounds 5" narrows it down.
bench: env
	$(BIN)/python benchmarks/step_time.py $(BENCH)

bench-gpu: env
	$(BIN)/python benchmarks/step_time.py --device cuda $(BENCH)

# The posterior file and the analyses with arviz >= 1 and neither torch nor pyro, which takes a Python >= 3.12: the first
# of these that really runs (version managers leave names that do not), or the one given as PYTHON312=/path/to/python.
ARVIZ1      := .venv-arviz1
PYTHONS_312 := $(or $(PYTHON312),python3.14 python3.13 python3.12 python3 $(wildcard $(HOME)/.pyenv/versions/3.1[2-9]*/bin/python \
  $(HOME)/.local/share/uv/python/cpython-3.1[2-9]*/bin/python3 /opt/homebrew/bin/python3 /usr/local/bin/python3))

test-arviz1: $(ARVIZ1)/.installed
	@$(ARVIZ1)/bin/python -W ignore -c 'import arviz, importlib.util as u, sys; \
	  found = [name for name in ("torch", "pyro") if u.find_spec(name)]; \
	  sys.exit("must not be importable here: " + ", ".join(found)) if found else None; \
	  sys.exit("arviz >= 1 is needed, this is " + arviz.__version__) if int(arviz.__version__.split(".")[0]) < 1 else None; \
	  print("Python", sys.version.split()[0], "arviz", arviz.__version__, "without torch and pyro")'
	OMP_NUM_THREADS=1 $(ARVIZ1)/bin/python -m pytest tests/analysis tests/report tests/storage tests/sampling/test_diagnostics.py -m "not slow and not gpu and not shared"

$(ARVIZ1)/.installed: requirements-analysis.txt constraints-arviz1.txt
	@for python in $(PYTHONS_312); do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'make test-arviz1: no Python >= 3.12 that runs among: $(PYTHONS_312)' >&2; \
	  echo 'Get one (uv python install 3.13, pyenv install 3.13, apt install python3.12-venv, python.org) and run' >&2; \
	  echo '  make test-arviz1 PYTHON312=/path/to/python3.13' >&2; \
	  exit 1; \
	fi; \
	echo "$$found -m venv $(ARVIZ1)"; rm -rf $(ARVIZ1); $$found -m venv $(ARVIZ1)
	$(ARVIZ1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-arviz1.txt \
	  -r requirements-analysis.txt pytest pytest-timeout hypothesis
	$(ARVIZ1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) .venv-arviz1 build docs/_build *.egg-info
