"""Count what one must know to serve one table: http/, postgres/, and users/ without lists, bulk and seed."""

import sys
from pathlib import Path

from bench.figures import count_lines

LIMIT = 4000
OPTIONAL = {"lists.py", "exporter.py", "importer.py", "seed.py"}

PACKAGE = Path("svc")
files = [*PACKAGE.glob("http/*.py"), *PACKAGE.glob("postgres/*.py")]
files += [path for path in PACKAGE.glob("users/*.py") if path.name not in OPTIONAL]
code = sum(map(count_lines, files))
filled = sum(1 for path in files for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
print(f"core: {code:,} lines of code, {filled:,} with docstrings and comments; limit {LIMIT:,}")
sys.exit(code > LIMIT)
