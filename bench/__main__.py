"""`python -m bench`: says what to install where something is missing, and runs bench/command.py."""

import sys

try:
    from bench.command import main
except ModuleNotFoundError as error:
    sys.exit(f"bench: there is no {error.name} here: pip install -r requirements/bench.txt")

if __name__ == "__main__":
    sys.exit(main())
