"""How far some work is: bars in a terminal, and a line now and then where there is none."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Reporter = Callable[[float], None]
"""Told the share of some work that is done, 0 to 1."""
Bar = Callable[[str], AbstractContextManager[Reporter]]
"""Begins some work, described in a few words; a context that gives how to report on it."""

INTERVAL = 20.0
"""Seconds between two lines where there is no terminal."""


@contextmanager
def bars(console: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Bar]:
    """Returns a context that gives a function that shows how far some work is.

    Args:
        console: Console where it is shown: as a bar in a terminal, elsewhere as lines.
        clock: Function that tells the seconds; for lines.
    """
    if not console.is_terminal:
        yield lambda description: lines(console, description, clock)
        return
    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield lambda description: _bar(progress, description)


@contextmanager
def _bar(progress: Progress, description: str) -> Iterator[Reporter]:
    task = progress.add_task(description, total=1.0)

    def report(share: float) -> None:
        progress.update(task, completed=min(share, 1.0))

    yield report
    report(1.0)


@contextmanager
def lines(console: Console, description: str, clock: Callable[[], float]) -> Iterator[Reporter]:
    """Print a line at the start of some work, every 20 seconds of it, and at its end.

    Args:
        console: Console where they are printed.
        description: Description of the work.
        clock: Function that tells the seconds.
    """
    begin = told = clock()

    def say(text: str) -> None:
        console.print(f"{description}: {text}", soft_wrap=True, highlight=False)

    def report(share: float) -> None:
        nonlocal told
        if clock() - told >= INTERVAL:
            told = clock()
            say(f"{min(share, 1.0):.0%} after {in_words(told - begin)}")

    say("begun")
    yield report
    say(f"done after {in_words(clock() - begin)}")


def in_words(seconds: float) -> str:
    """Returns a time in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def portion(report: Reporter, start: float, size: float, total: float) -> Reporter:
    """Returns how to report a part of the work, from `start` to `start + size` of `total`."""

    def report_part(share: float) -> None:
        report((start + share * size) / total)

    return report_part
