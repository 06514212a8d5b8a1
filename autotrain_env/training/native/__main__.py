"""Builds the compiled engine where it is missing, and says which one is used.

Run by `python -m autotrain_env.training.native`: for images of machines that have no compiler later.
"""

import sys

from autotrain_env.training.native.build import BuildError
from autotrain_env.training.native.library import best_library


def main() -> int:
    """Print the library, or why there is none; returns 0 or 1."""
    found = best_library()
    if isinstance(found, BuildError):
        print(f"no compiled engine: {found}")
        return 1
    print(f"{found.instructions}: {found.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
