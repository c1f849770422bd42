"""Printing on terminals that know few signs, or that are gone."""

from __future__ import annotations

import io
import sys

import pytest

from kd_course._terminal import say


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "28×28 ± 1 − ж → …"),
        ("cp1251", "28x28 +- 1 - ж -> ..."),
        ("ascii", "28x28 +- 1 - ? -> ..."),
        ("latin-1", "28x28 +- 1 - ? -> ..."),
    ],
)
def test_what_a_terminal_has_no_sign_for_becomes_a_plainer_one(
    monkeypatch: pytest.MonkeyPatch, encoding: str, printed: str
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    say("28×28 ± 1 − ж → …")
    assert written.getvalue().decode(encoding).splitlines() == [printed]


def test_a_file_name_that_is_no_text_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    say(b"caf\xe9".decode("utf-8", "surrogateescape"))  # as Python gives the name of such a file
    assert written.getvalue().split() == [b"caf?"]


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Broken(), closed()], ids=["none", "nobody reads it", "closed"])
def test_a_terminal_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    say("anything")
