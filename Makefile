# SPDX-License-Identifier: GPL-2.0-or-later
#
# `make demo` and `make test` are all that a fresh clone needs: each sets up .venv on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST_ARGS ?=
BENCH_ARGS ?=
LINUX := build/linux
LINUX_RAM ?= 256M
LINUX_ARGS ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## create .venv and install everything into it

demo: $(INSTALLED) ## boot a guest, save it, move it to a second process while it runs, go back
	@$(BIN)/mini-qemu demo

test: $(INSTALLED) ## run all tests that can run here; PYTEST_ARGS='-m "not slow"' for the quick ones
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-linux: $(INSTALLED) $(LINUX)/initrd ## run the tests that boot Debian's Linux
	$(BIN)/python -m pytest -m linux -rP tests/linux $(PYTEST_ARGS)

lint: $(INSTALLED) ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(INSTALLED) ## static types
	$(BIN)/mypy

bench: $(INSTALLED) ## compare with qemu-system-riscv64; BENCH_ARGS=--json for a script
	@$(BIN)/python bench/compare.py $(BENCH_ARGS)

bench-linux: $(INSTALLED) $(LINUX)/initrd ## compare Linux here and in qemu-system-riscv64
	@$(BIN)/python bench/linux.py $(BENCH_ARGS)

linux: $(INSTALLED) $(LINUX)/initrd ## boot Debian's Linux to a shell; LINUX_RAM=256M, LINUX_ARGS='-qmp ...'
	@$(BIN)/mini-qemu run -m $(LINUX_RAM) -kernel $(LINUX)/vmlinuz -initrd $(LINUX)/initrd \
		-append 'console=ttyS0,115200n8r earlycon' $(LINUX_ARGS)

firmware: ## build the guests and compare them with firmware/prebuilt; needs gcc-riscv64-unknown-elf
	@command -v riscv64-unknown-elf-gcc > /dev/null || \
		{ echo "riscv64-unknown-elf-gcc is missing: apt install gcc-riscv64-unknown-elf" >&2; exit 1; }
	@$(MAKE) --silent --no-print-directory -C firmware check

check: lint type firmware test ## all of lint, type, firmware, test

clean: ## remove what these commands have made
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	$(MAKE) --no-print-directory -C firmware clean

# Kept until `make clean`; the kernel and BusyBox are fetched together.
$(LINUX)/vmlinuz:
	@echo "fetching Linux for riscv64 from Debian's archive, once" >&2
	@$(PYTHON) linux/fetch.py $(LINUX)

$(LINUX)/initrd: $(LINUX)/vmlinuz linux/initramfs.py $(wildcard linux/files/*/*)
	@$(PYTHON) linux/initramfs.py $(LINUX)/busybox $@

# Some systems ship Python without what gives a new environment its own pip: the outer pip can install from outside.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "setting up $(VENV), once" >&2
	@$(PYTHON) -m venv --clear --without-pip $(VENV)
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-linux lint type bench bench-linux linux firmware check clean
.NOTPARALLEL:
