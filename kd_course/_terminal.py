"""Printing on any terminal. Needs nothing but Python, because the pre-flight also runs where PyTorch is broken."""

from __future__ import annotations

import sys
from contextlib import suppress

_PLAIN = str.maketrans({"×": "x", "−": "-", "–": "-", "±": "+-", "…": "...", "→": "->"})


def say(text: object) -> None:
    """Print a line: what the terminal has no sign for becomes a plainer one, and no fault of its own is an error."""
    encoding, line = getattr(sys.stdout, "encoding", None) or "utf-8", str(text)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = line.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    with suppress(OSError, ValueError):  # nobody reads the pipe, the disk is full, the stream is closed
        print(line, flush=True)
