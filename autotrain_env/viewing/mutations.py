"""Tables and pictures of descent with mutations, from the records of `benchmarks/mutations.py`."""

import json
from pathlib import Path
from typing import Any

Records = dict[str, dict[str, Any]]
"""Records by the JSON of their case."""


def read_mutation_records(path: str | Path) -> Records:
    """Returns the records of a file, by the JSON of their case; none where there is no file."""
    path = Path(path)
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return {json.dumps(record["case"], sort_keys=True): record for record in records}


def mutation_table(records: Records) -> str:
    return ""
