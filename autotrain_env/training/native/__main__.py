"""Says which compiled code is used here, after building it where it is missing: `python -m autotrain_env.training.native`."""

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
