# From a fresh machine: needs make, Python >= 3.10 and a C++ compiler. `make PYTHON=python3.12` picks the interpreter.

PYTHON ?= python3
BIN := .venv/bin
# Every install obeys constraints.txt: torch has the version named there, and is a CPU build where one is offered.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
BUILD_INPUTS := setup.py pyproject.toml constraints.txt segnext_kernels/VERSION $(wildcard csrc/*.* csrc/c*/*.* csrc/ops/*/*)

.DEFAULT_GOAL := help
.PHONY: help demo test proof fuzz interop lint docs bench campaign readme picture wheel clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: .venv/package ## segment a photograph of a street; say where mask and overlay are, and the time it took
	$(BIN)/segnext predict docs/street.jpg --weights camvid -o out/demo --overwrite

# One process per core, each with one thread. The tests of a file stay together, since they share what they build. A
# process that dies ends the run and is named: pytest-xdist would replace it, and then wait for it forever.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --max-worker-restart 0 \
	--dist loadfile --no-loadscope-reorder

test: .venv/developer ## all tests but those of `make proof`
	$(PYTEST) -m "not proof"

proof: .venv/developer ## the tests that take minutes: emulator, interpreter, sanitizers, machine code, clang, Arm, isolated build; MINUTES=30 skips what would begin later
	$(PYTEST) -m proof $(if $(MINUTES),--minutes $(MINUTES))

fuzz: .venv/developer ## random images, checkpoints, ops and kills, 50 times as many as in `make test`: an hour
	$(PYTEST) tests/fuzz --fuzz-share 1

INTEROP ?= $(HOME)/.cache/segnext/interop
interop: .venv/developer ## exchange weights with the real mmsegmentation, PaddleSeg, Jittor and Geti, run in timm and transformers: 7 GB, half an hour; CAMVID=folder compares masks too
	$(BIN)/python -m tests.interop --environments $(INTEROP) --write
	$(if $(CAMVID),$(BIN)/python -m tests.interop.protocols $(CAMVID) --python $(INTEROP)/mmsegmentation/bin/python)

lint: .venv/developer ## style and types: ruff, clang-format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*.cpp csrc/*.h csrc/c*/*.* csrc/ops/*/* csrc/runtime/*.h csrc/runtime/*.cpp examples/cpp/*.cpp tests/runtime/*.cpp $(addprefix tests/cuda_emulator/,*.cpp *.cu *.h include/*.h include/*/*) $(addprefix tests/kernels/cpu/,*.cpp remote/*.cpp remote/include/*) bench/*.cpp bench/issue_model/runtime.cpp bench/issue_model/machine/* tests/bench/*.cu)
	$(BIN)/mypy

docs: .venv/developer ## build the pages of docs/ as a web site, build/docs/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going --quiet -d build/doctrees -c docs . build/docs
	@echo "build/docs/index.html"

bench: .venv/developer ## measure this machine; the results go to bench/results
	$(BIN)/python -m pytest bench --benchmark-only
	$(BIN)/python -m bench.anatomy

campaign: ## measure this machine's GPU with the PyTorch, Triton and nvcc that it has; nine minutes
	$(PYTHON) -m bench.campaign --first

readme: .venv/developer ## write the tables of README.md and docs/ again, from the code and bench/results
	$(BIN)/python -m bench.readme

picture: demo ## draw the README's picture again
	cp out/demo/street_overlay.jpg docs/demo_overlay.jpg

wheel: .venv/developer ## what a release uploads, in dist/: sdist, CPU wheel, CUDA wheel where nvcc is
	$(BIN)/python -m tools.wheels

clean: ## remove .venv and everything that was built
	rm -rf .venv build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	rm -f segnext_kernels/_C.*so segnext_kernels/_build.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python >= 3.10 is needed, got " + sys.version.split()[0] + "; name one with make PYTHON=...")'
	$(PYTHON) -m venv .venv

# The install is editable: an edit of Python takes effect at once, an edit of csrc/ builds the kernels again.
# Python packages first, then the kernels by a command of their own, so that both show their progress.
.venv/package: $(BUILD_INPUTS) | .venv/bin/python
	@echo "1. torch and the other packages that segnext needs, in .venv: about a minute"
	SEGNEXT_BUILD=off $(INSTALL) setuptools ninja -e .
	@echo "2. the kernels that this machine can run: about a minute on two cores"
	SEGNEXT_BUILD=$${SEGNEXT_BUILD:-native} $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

.venv/developer: $(BUILD_INPUTS) | .venv/bin/python
	@echo "1. torch and what the tests need, in .venv: about a minute"
	SEGNEXT_BUILD=off $(INSTALL) -e '.[test,lint,bench,docs]'
	@echo "2. all kernels: a few minutes"
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch .venv/package $@
