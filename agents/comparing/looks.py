"""Looks at final targets, which are counted: who looks often enough finds what he wants."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

from agents.runs.folder import RunFolder
from autotrain_env import __version__
from autotrain_env.files import replace_file
from autotrain_env.schemas import LARGEST_FILE, anything, read_json_lines, read_limited, structure, whole


def note_look(path: Path, runs: Sequence[Path], targets: Sequence[str]) -> int:
    """Note a look before it is taken.

    Args:
        path: The list of looks, a JSON object a line; made where it is missing.
        runs: Folders of the policies.
        targets: Names of the targets.

    Returns:
        How many looks there have been, this one included.
    """
    looks = []
    if path.exists():
        assert all(
            read_json_lines(path, structure({"look": whole(1)}, others=anything))
        )  # says what is damaged
        looks = read_limited(path, LARGEST_FILE).decode().splitlines()
    policies = {run.name: RunFolder(run).policy_hash() for run in runs}
    look = {
        "look": len(looks) + 1,
        "when": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "targets": list(targets),
        "policies": policies,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(f"{line}\n" for line in (*looks, json.dumps(look))).encode())
    return len(looks) + 1
