"""``python -m kd_course.studies hinton --seeds 5``: run studies; without a name, all of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd_course._terminal import say
from kd_course.memo import writable
from kd_course.runtime import available_cores
from kd_course.studies import STUDIES, run, study


def main() -> None:
    """Run the studies that are named and print their tables."""
    parser = argparse.ArgumentParser(description="Run the studies behind the course's numbers, or what is missing.")
    parser.add_argument("names", nargs="*", metavar="study", help=f"one or more of {', '.join(STUDIES)}; default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fast", action="store_true", help="token trainings on few images, to see that all works")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: data/results of the clone)")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in STUDIES]:  # before the first one runs for hours
        parser.error(f"there is no study {', '.join(map(repr, unknown))}; there are: {', '.join(STUDIES)}")
    for what in ("seeds", "workers"):
        if getattr(options, what) < 1:
            parser.error(f"--{what} must be 1 or more, not {getattr(options, what)}")
    if options.folder is not None:
        try:
            options.folder = writable(options.folder)
        except (ValueError, RuntimeError) as error:  # also a ~name that nobody has
            parser.error(f"--folder: {error}")
    for name in options.names or STUDIES:
        chosen = study(name, fast=options.fast)
        say(f"{name}: {chosen.question}")
        runs = run(name, seeds=options.seeds, fast=options.fast, workers=options.workers, folder=options.folder)
        say((chosen.table(runs) if options.seeds > 1 else runs).to_string() + "\n")


if __name__ == "__main__":
    main()
