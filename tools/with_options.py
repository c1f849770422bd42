"""Run a command with further options that come as one text: ``with_options.py "-k 'a or b' -x" python -m pytest``.

The text is divided into words as a shell would do it, but no shell reads it: ``;`` and ``>`` mean nothing here. The
Makefile passes PYTEST_ARGS, PIP_ARGS and LAB_ARGS on in this way.
"""

from __future__ import annotations

import os
import shlex
import sys


def main(options: str, *command: str) -> None:
    """Become ``command`` with the words of ``options`` after its own."""
    try:
        words = [*command, *shlex.split(options)]
    except ValueError as error:
        sys.exit(f"the options {options!r} cannot be divided into words ({error}); close every quotation mark")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main(*sys.argv[1:])
