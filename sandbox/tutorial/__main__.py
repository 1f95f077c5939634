"""Make the folder that a reader of the tutorial works in, or bring it to a later state."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sandbox.tutorial.steps import all_steps, prepare, solve


def main() -> int:
    parts = sorted({step.part for step in all_steps().values()})
    parser = argparse.ArgumentParser(prog="python -m sandbox.tutorial", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--solve",
        type=int,
        choices=parts,
        metavar="PART",
        help="bring the files to the state after this part, and overwrite your changes to them",
    )
    arguments = parser.parse_args()
    try:
        if arguments.solve is None:
            prepare(arguments.folder)
        else:
            solve(arguments.folder, arguments.solve)
    except OSError as error:
        print(f"tutorial: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
