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


def to_target(
    records: Sequence[Record], target: float, of: Callable[[Record, Point], float], form: str
) -> str:
    """Median over seeds of seconds or passes to an accuracy; how many reached it where not all did."""
    found = [
        of(record, point) for record in records if (point := reached(points_of(record), target)) is not None
    ]
    if not found:
        return ""
    median = format(float(np.median(found)), form)
    return median if len(found) == len(records) else f"{median} ({len(found)} of {len(records)})"


def table(part: str, records: Sequence[Record]) -> str:
    """One comparison in Markdown."""
    methods = list(dict.fromkeys(record["job"]["method"] for record in records))
    names = [f"{100 * target:.0f}%" for target in TARGETS]
    head = [
        "method",
        "seeds",
        *(f"seconds to {name}" for name in names),
        *(f"passes to {name}" for name in names),
    ]
    rows = [[*head, "seconds", "passes", "validation", "test"]]
    rows.append(["---"] * len(rows[0]))
    for method in methods:
        own = [record for record in records if record["job"]["method"] == method]
        lasts = [points_of(record)[-1] for record in own]
        best = [max(point.accuracy for point in points_of(record)) for record in own]
        taken = [seconds_at(record, last) for record, last in zip(own, lasts, strict=True)]
        rows.append(
            [
                method,
                str(len(own)),
                *(to_target(own, target, seconds_at, ",.1f") for target in TARGETS),
                *(
                    to_target(own, target, lambda _, point: point.forward_passes, ".1e")
                    for target in TARGETS
                ),
                f"{np.median(taken):,.0f}",
                f"{np.median([last.forward_passes for last in lasts]):.1e}",
                interval(best),
                interval([record["test"] for record in own]),
            ]
        )
    return f"### {part}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def print_tables(records: Sequence[Record], console: Console) -> None:
    """Print every comparison."""
    for part in dict.fromkeys(record["job"]["part"] for record in records):
        own = [record for record in records if record["job"]["part"] == part]
        console.print(table(part, own), markup=False, soft_wrap=True)
