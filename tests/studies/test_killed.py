"""A study that is killed at any moment goes on to the same bits; ``killed`` does so hundreds of times."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 6


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it needs fork and SIGKILL")
def test_whatever_is_killed_goes_on_to_the_same_bits(package_environment: dict[str, str]) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(KILLS)]
    environment = package_environment | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["compare", "study", "write"]
    for line in lines:
        kills, hits, whole, folders = map(int, re.findall(r"\d+", line))
        assert kills == KILLS and whole == folders, line
        assert hits > 0, f"no kill met a run, so nothing was tested: {line}"
