"""Progress on the terminal: what came out line by line, and how much is left."""

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from bench.plan import Cell


class Progress:
    """A bar for as long as a `with` block lasts, `seconds` of measuring long."""

    def __init__(self, seconds: float) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(highlight=False))
        self._task = self._bar.add_task("starting", total=seconds)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(escape(line))

    def advance(self, cell: Cell, seconds: float) -> None:
        """Move the bar by the seconds of a run of this cell."""
        self._bar.update(self._task, advance=seconds, description=str(cell))
