"""Carry the results of the studies over to the columns and names of today; no number changes, and no run is lost.

``python tools/migrate_results.py`` reads the result files as they were committed and writes them anew: every run gets
the columns of its recipe, the header the names of today. Then it does the same for the runs that ``make studies`` keeps
one by one in ``data/results/.runs``, so that a study goes on where it was. Run it again, and it finds nothing to do.

Every number is compared as it stands in the file, digit by digit. A run is only carried over if its options are those
of the same recipe today, and if it does not contradict the committed results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from kd_course.memo import Run, cache_key, load_or_run, read_sealed, write_sealed
from kd_course.studies import STUDIES, Study, study
from kd_course.studies._results import options, with_columns, write

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "data/results"
OLD_NAMES = {"multi_teacher": "ensembles"}
DECIMALS = 10  # to which twenty runs of the league were written


def main() -> None:
    """Migrate the committed result files, then the runs that are kept one by one."""
    parser = argparse.ArgumentParser(description="Carry results over to the columns and names of today.")
    parser.add_argument("--revision", default="HEAD", help="where git finds the old files (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=ROOT / FOLDER, help="where to write (default: %(default)s)")
    arguments = parser.parse_args()
    for name in STUDIES:
        old_name, text = committed(name, arguments.revision)
        path = arguments.folder / f"{name}.json"
        if not text:
            print(f"{name}: no committed results")
        elif is_new(json.loads(text)) or (path.exists() and is_new(json.loads(path.read_text(encoding="utf-8")))):
            print(f"{name}: nothing to do")
        else:
            header, rows = migrate(json.loads(text), study(name), name, commits(name, arguments.revision))
            write(path, header, rows)
            compare_numbers(text, path.read_text(encoding="utf-8"))
            print(f"{name}: {len(rows)} runs written, every number as it was")
        found = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
        for old in sorted({name, old_name}):
            migrate_runs(arguments.folder / ".runs" / old, arguments.folder / ".runs" / name, study(name), found)


def committed(name: str, revision: str) -> tuple[str, str]:
    """The name and the text of a study's result file in a revision; no text if there is none."""
    for old in (name, OLD_NAMES.get(name, name)):
        command = ["git", "-C", str(ROOT), "show", f"{revision}:{FOLDER}/{old}.json"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if not done.returncode:
            return old, done.stdout
    return OLD_NAMES.get(name, name), ""


def commits(name: str, revision: str) -> list[str]:
    """The commits that brought a study its runs, or changed them, the oldest first, with their dates."""
    paths = [f"{FOLDER}/{each}.json" for each in {name, OLD_NAMES.get(name, name)}]
    command = ["git", "-C", str(ROOT), "log", "--reverse", "--format=%h (%as)", revision, "--", *paths]
    listing = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    found, before = [], None
    for line in listing:
        _, text = committed(name, line.split()[0])
        runs = json.loads(text)["runs"] if text else before
        if runs != before:
            found.append(line)
        before = runs
    return found


def is_new(content: dict) -> bool:
    """Whether a result file, or a run that was kept, has the form of today."""
    return "package" in content


def migrate(content: dict, chosen: Study, name: str, made_in: list[str]) -> tuple[dict, list[dict]]:
    """The header and the runs of a result file in the form of today.

    Args:
        content: the old file.
        chosen: the study of today.
        name: its name.
        made_in: the commits that the runs came with.

    Raises:
        ValueError: recipes or options that are not those of the study.
    """
    if content["options"] != plain(options(chosen)):
        raise ValueError(f"{name}: the options of the old results are not those of the study")
    header = {
        "study": name,
        "question": chosen.question,
        "command": f"make studies STUDY={name} SEEDS={len(content['seeds'])}",
        **{key: content[key] for key in ("data", "data_checksum", "versions")},
        "package": None,
        "made_with": f"the package of its time, whose checksum was not recorded; committed in {', '.join(made_in)}",
        **{key: content[key] for key in ("threads_per_run", "seconds", "seeds", "options")},
    }
    return header, [with_columns(run, chosen) for run in content["runs"]]


def compare_numbers(old: str, new: str) -> None:
    """Compare every number of every run of two result files as it is written there, and as it is read.

    Raises:
        ValueError: a run or a number is missing, is new, or has changed.
    """
    for number in (str, float):  # the digits in the file; the bits of what Python reads
        before, after = (json.loads(text, parse_float=number, parse_int=str)["runs"] for text in (old, new))
        if len(before) != len(after):
            raise ValueError(f"{len(before)} runs became {len(after)}")
        for first, second in zip(before, after, strict=True):
            kept = {key: repr(second.get(key)) for key in first}
            if kept != {key: repr(value) for key, value in first.items()}:
                raise ValueError(f"a run has changed: {first} became {second}")


def migrate_runs(source: Path, target: Path, chosen: Study, results: list[dict]) -> int:
    """Carry the runs of a study that were kept one by one over to the names of today; returns how many are new.

    Args:
        source: the folder of the old files, which stay as they are.
        target: the folder of the new files; may be the same.
        chosen: the study of today.
        results: its committed runs. An old run of the same recipe and seed must have the same numbers; if it has not,
            it was made by code that has changed since, and all other runs of that recipe and code are left out too.
    """
    old = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(source.glob("*.json"))]
    old = [run for run in old if not is_new(run) and run.get("recipe") in chosen.arms]
    measured = {(run["recipe"], run["seed"]): run for run in results}
    outdated = {code(run) for run in old if contradicts(run, measured.get((run["recipe"], run["seed"])))}
    candidates = defaultdict(list)
    for run in old:
        key = cache_key(chosen.recipes[run["recipe"]], run["data"]) | {"torch": run["torch"], "seed": run["seed"]}
        if code(run) not in outdated and plain(key["options"]) == run["options"]:
            candidates[json.dumps(key, sort_keys=True)].append(run)
    written = 0
    for key, runs in candidates.items():
        first = runs[0]
        if any(run["numbers"] != first["numbers"] for run in runs):
            print(f"{source}: the runs of {first['recipe']!r} with seed {first['seed']} disagree; left as they are")
            continue
        written += keep(json.loads(key), first, target)
    if old:
        print(f"{source}: {written} of {len(old)} runs carried over")
    return written


def keep(key: dict, run: dict, target: Path) -> bool:
    """Write a run as ``compare`` would, unless it is there; says whether it was written."""
    with tempfile.TemporaryDirectory() as folder:
        done = Run(run["numbers"], run["seconds"])
        load_or_run(key, lambda: done, Path(folder), wait=True, recipe=run["recipe"])
        (made,) = Path(folder).glob("*.json")
        path = target / made.name
        if path.exists():
            return False
        content = read_sealed(made, fix="migrate again") | {"package": None, "checksum": ""}
    target.mkdir(parents=True, exist_ok=True)
    write_sealed(path, json.dumps(content, indent=1))
    if read_sealed(path, fix="migrate again")["numbers"] != run["numbers"]:
        raise ValueError(f"{path}: a number has changed")
    return True


def code(run: dict) -> tuple[str, str, str]:
    """What made a run: its recipe, the source of it, and the code of the package that it could call."""
    return run["recipe"], run["source"], run["code"]


def contradicts(run: dict, result: dict | None) -> bool:
    """Whether a run's numbers are others than those of the same recipe and seed in the result file."""
    if result is None:
        return False
    return any(result.get(key) not in (value, round(value, DECIMALS)) for key, value in run["numbers"].items())


def plain(value: object) -> object:
    """A value as it comes back from a JSON file."""
    return json.loads(json.dumps(value))


if __name__ == "__main__":
    main()
