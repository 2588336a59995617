# The commands of CONTRIBUTING.md, each under one word.
.PHONY: setup test check lint types bench serve

setup:
	python3 -m venv .venv && .venv/bin/pip install -qr requirements/dev.txt

test:
	.venv/bin/python -m pytest

check:
	.venv/bin/python -m svc check

lint:
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/lint-imports --no-cache && .venv/bin/hadolint Dockerfile

types:
	.venv/bin/mypy && .venv/bin/pyright --pythonpath .venv/bin/python

bench:
	python3 -m venv .venv-bench && .venv-bench/bin/pip install -qr requirements/bench.txt && .venv-bench/bin/python -m bench --quick

serve:
	.venv/bin/python -m svc serve --reload
