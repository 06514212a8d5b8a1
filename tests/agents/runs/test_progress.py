"""Progress: bars in a terminal, lines elsewhere."""

import io

import pytest
from rich.console import Console

from agents.runs.progress import bars, portion


class Clock:
    """Tells the time that it is set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_where_there_is_no_terminal_a_line_is_printed_every_20_seconds():
    output, clock = io.StringIO(), Clock()
    with bars(Console(file=output), clock) as bar, bar("training") as report:
        for second in range(71):
            clock.now = 100.0 + second
            report(second / 70)
        clock.now = 172.0
    assert output.getvalue().splitlines() == [
        "training: begun",
        "training: 29% after 20 s",
        "training: 57% after 40 s",
        "training: 86% after 1 min 0 s",
        "training: done after 1 min 12 s",
    ]


def test_what_fails_is_not_said_to_be_done():
    output = io.StringIO()
    with pytest.raises(RuntimeError), bars(Console(file=output)) as bar, bar("training"):
        raise RuntimeError
    assert output.getvalue() == "training: begun\n"


def test_a_terminal_shows_a_bar():
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=80)
    with bars(console) as bar, bar("training") as report:
        report(0.5)
    assert "training" in output.getvalue() and "100%" in output.getvalue()


def test_parts_of_the_work_add_up():
    shares: list[float] = []
    portion(shares.append, 1, 2, 4)(0.5)
    assert shares == [0.5]
