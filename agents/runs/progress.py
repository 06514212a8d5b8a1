"""Progress bars of the scripts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Report = Callable[[float], None]
"""Told the share of some work that is done, 0 to 1."""


@contextmanager
def bars(console: Console) -> Iterator[Callable[[str], Any]]:
    """Progress bars; yields a function that makes one, as a context that yields how to report."""
    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:

        @contextmanager
        def bar(description: str) -> Iterator[Report]:
            task = progress.add_task(description, total=1.0)

            def report(share: float) -> None:
                progress.update(task, completed=min(share, 1.0))

            yield report
            report(1.0)

        yield bar


def portion(report: Report, start: float, size: float, total: float) -> Report:
    """Report a part of the work, from `start` to `start + size` of `total`."""

    def report_part(share: float) -> None:
        report((start + share * size) / total)

    return report_part
