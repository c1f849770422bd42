"""``python -m kd_course.studies hinton --seeds 5``: run studies; without a name, all of them."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    for name in options.names or STUDIES:
        chosen = study(name, fast=options.fast)
        print(f"{name}: {chosen.question}", flush=True)
        runs = run(name, seeds=options.seeds, fast=options.fast, workers=options.workers, folder=options.folder)
        print(chosen.table(runs).to_string() if options.seeds > 1 else runs.to_string(), "\n", flush=True)


if __name__ == "__main__":
    main()
