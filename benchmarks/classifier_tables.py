"""What the records of `classifiers` say, as tables for the pages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from autotrain_env.evolution.curves import Point, reached

TARGETS = (0.80, 0.90, 0.95, 0.97)
Record = Mapping[str, Any]


def points_of(record: Record) -> list[Point]:
    """The measurements of a record."""
    return [Point(*point) for point in record["points"]]


def seconds_at(record: Record, point: Point) -> float:
    """Seconds of a measurement: those of the processor where one thread worked."""
    return point.cpu_seconds if record["job"]["settings"].get("threads", 1) == 1 else point.seconds


def interval(values: Sequence[float]) -> str:
    """Mean in percent, with the 95% interval of Student's t over seeds."""
    percent = 100 * np.asarray(values)
    mean = f"{percent.mean():.2f}"
    if len(percent) < 2:
        return mean
    half = stats.t.ppf(0.975, len(percent) - 1) * percent.std(ddof=1) / len(percent) ** 0.5
    return f"{mean} ± {half:.2f}"


def in_seconds(seconds: float) -> str:
    """Seconds with as many digits as mean something."""
    return f"{seconds:.2f}" if seconds < 1 else f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"


def in_powers(number: float) -> str:
    """A large number as a multiple of a power of ten."""
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits} · 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def to_target(
    records: Sequence[Record],
    target: float,
    of: Callable[[Record, Point], float],
    write: Callable[[float], str],
) -> str:
    """Median over seeds of seconds or passes to an accuracy; how many reached it where not all did."""
    found = [
        of(record, point) for record in records if (point := reached(points_of(record), target)) is not None
    ]
    if not found:
        return ""
    median = write(float(np.median(found)))
    return median if len(found) == len(records) else f"{median} ({len(found)} of {len(records)})"


def passes_at(record: Record, point: Point) -> float:
    """Forward passes until a measurement."""
    return point.forward_passes


def table(part: str, records: Sequence[Record]) -> str:
    """One comparison in Markdown; `last` is the accuracy on the validation part in the end."""
    names = [f"{100 * target:.0f}%" for target in TARGETS]
    head = ["method", "seeds", *(f"seconds to {name}" for name in names)]
    head += [*(f"passes to {name}" for name in names), "seconds", "passes", "last", "test"]
    rows = [head, ["---"] * len(head)]
    for method in dict.fromkeys(record["job"]["method"] for record in records):
        own = [record for record in records if record["job"]["method"] == method]
        lasts = [points_of(record)[-1] for record in own]
        taken = [seconds_at(record, last) for record, last in zip(own, lasts, strict=True)]
        rows.append(
            [
                method,
                str(len(own)),
                *(to_target(own, target, seconds_at, in_seconds) for target in TARGETS),
                *(to_target(own, target, passes_at, in_powers) for target in TARGETS),
                in_seconds(float(np.median(taken))),
                in_powers(float(np.median([last.forward_passes for last in lasts]))),
                interval([last.accuracy for last in lasts]),
                interval([record["test"] for record in own]),
            ]
        )
    return f"### {part}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def print_tables(records: Sequence[Record], console: Console) -> None:
    """Print every comparison."""
    for part in dict.fromkeys(record["job"]["part"] for record in records):
        own = [record for record in records if record["job"]["part"] == part]
        console.print(table(part, own), markup=False, soft_wrap=True)
