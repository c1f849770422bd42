"""MNIST's downloads: from good mirrors and bad ones, by one process and by two, without touching what others use."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import pytest
from small_mnist import FILES, Mirror, cut_short, idx_files, images_of, intact, write, zipped

from kd_course.data import DataError, find_mnist, load_data
from kd_course.data import mnist as source

Trust = Callable[[dict[str, bytes]], None]


def test_a_download_leaves_four_intact_files_and_nothing_else(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], capsys
) -> None:
    server = mirror(zipped(small_mnist))
    found = load_data(validation_size=10)
    assert found.name == "mnist" and (len(found.train), len(found.test)) == (20, 12)
    assert intact(downloads / "raw", small_mnist)
    assert sorted(path.name for path in downloads.rglob("*")) == sorted(["raw", *FILES])
    assert capsys.readouterr().out == ""
    requests = len(server.asked)
    assert load_data("mnist", validation_size=10).name == "mnist"
    assert len(server.asked) == requests  # what is here is not asked for again


def test_a_mirror_that_refuses_head_still_serves(small_mnist: dict[str, bytes], mirror: Callable[..., Mirror]) -> None:
    server = mirror(zipped(small_mnist))
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("HEAD", f"/{FILES[0]}.gz")
    assert connection.getresponse().status == 405
    connection.close()
    assert intact(find_mnist(), small_mnist)
    assert all(asked.startswith("GET ") for asked in server.asked[1:])


def test_a_download_changes_nothing_that_the_rest_of_the_process_uses(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the default timeout of sockets, not even while it runs, nor, once it is over, pooch's log."""
    set_to: list[object] = []
    during: list[float | None] = []
    archives = zipped(small_mnist)

    def look(name: str) -> bytes:
        during.append(socket.getdefaulttimeout())
        return archives[name]

    before = socket.getdefaulttimeout(), pooch.get_logger().level, logging.root.level
    monkeypatch.setattr(socket, "setdefaulttimeout", set_to.append)
    mirror(archives, look)
    assert intact(find_mnist(), small_mnist)
    assert not set_to
    assert set(during) == {before[0]} and len(during) >= 4
    assert (socket.getdefaulttimeout(), pooch.get_logger().level, logging.root.level) == before


def test_a_download_writes_nothing_into_the_log(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[logging.LogRecord] = []
    monkeypatch.setattr(pooch.get_logger(), "handle", written.append)  # it has no parent that caplog could listen to
    mirror(zipped(small_mnist))
    assert intact(find_mnist(), small_mnist)
    assert not written


def test_a_failed_download_leaves_the_log_as_it_was(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooch.get_logger(), "level", logging.DEBUG)
    mirror({f"{FILES[3]}.gz": b""})
    with pytest.raises(DataError, match="downloading MNIST failed"):
        find_mnist()
    assert pooch.get_logger().level == logging.DEBUG


def test_damaged_files_of_an_earlier_download_are_named_and_fetched_again(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror]
) -> None:
    cut_short(write(small_mnist, downloads / "raw") / FILES[3])
    mirror(zipped(small_mnist))
    with pytest.warns(UserWarning, match=f"damaged MNIST files: .*{FILES[3]} is truncated.*again"):
        assert find_mnist() == downloads / "raw"
    assert intact(downloads / "raw", small_mnist)


@pytest.mark.parametrize("moved", range(4))
def test_files_missing_because_a_kernel_died_are_fetched_without_a_word(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], moved: int
) -> None:
    """It may die once the folder is made, and between any two renames. A warning would be an error here."""
    write(dict(itertools.islice(small_mnist.items(), moved)), downloads / "raw")
    mirror(zipped(small_mnist))
    assert intact(find_mnist(), small_mnist)


def test_a_rename_that_fails_leaves_whole_files_only_and_is_named(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(zipped(small_mnist))
    rename = os.replace

    def fail(old: Path, new: Path) -> None:
        if new.name == FILES[2]:
            raise OSError("no space left")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match=r"downloading MNIST failed: .*no space left"):
            find_mnist()
    left = {path.name: path.read_bytes() for path in downloads.rglob("*") if path.is_file()}
    assert left == {name: small_mnist[name] for name in FILES[:2]}
    assert intact(find_mnist(), small_mnist)


# Mirrors that fail.


@pytest.mark.parametrize("md5_matches", [False, True], ids=["MD5 differs", "MD5 forged, SHA-256 differs"])
def test_a_mirror_with_corrupt_files_is_refused_and_leaves_nothing(
    small_mnist: dict[str, bytes],
    downloads: Path,
    mirror: Callable[..., Mirror],
    trust: Trust,
    one_sentence: Callable[[str], bool],
    capsys,
    md5_matches: bool,
) -> None:
    changed = {**small_mnist, FILES[2]: idx_files(seed=1)[FILES[2]]}  # well-formed images, but not these
    if md5_matches:
        trust(zipped(changed))
    mirror(zipped(changed))
    with pytest.raises(DataError, match=f"downloading MNIST failed: http://127.0.0.1:.*{FILES[2]}"):
        load_data("mnist", validation_size=10)
    assert not list(downloads.iterdir())
    capsys.readouterr()
    assert load_data().name == "digits"
    assert one_sentence(capsys.readouterr().out)


def test_a_mirror_that_breaks_off_is_asked_twice_refused_and_leaves_nothing(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror]
) -> None:
    archives = zipped(small_mnist)
    server = mirror(archives, lambda name: archives[name][: len(archives[name]) // 2])
    with pytest.raises(DataError, match="downloading MNIST failed"):
        find_mnist()
    assert not list(downloads.iterdir())
    assert server.asked.count(f"GET {FILES[0]}.gz") == 2


def test_a_connection_that_breaks_once_is_no_failure(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror]
) -> None:
    archives = zipped(small_mnist)
    seen: set[str] = set()

    def break_the_first_time(name: str) -> bytes:
        whole = name in seen
        seen.add(name)
        return archives[name] if whole else archives[name][:-1]

    mirror(archives, break_the_first_time)
    assert intact(find_mnist(), small_mnist)


def test_a_mirror_that_knows_nothing_is_no_download_server(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror]
) -> None:
    server = mirror({})
    with pytest.raises(DataError, match="no MNIST files on this machine and no download server answers"):
        find_mnist()
    assert len(server.asked) == 1


@pytest.mark.parametrize("known", [[], FILES[3:]], ids=["nothing", "only the file it is asked for first"])
def test_the_second_mirror_is_used_where_the_first_knows_too_little(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror], known: list[str]
) -> None:
    mirror(zipped({name: small_mnist[name] for name in known}))
    mirror(zipped(small_mnist))
    assert intact(find_mnist(), small_mnist)


def test_both_mirrors_are_named_where_both_fail(small_mnist: dict[str, bytes], mirror: Callable[..., Mirror]) -> None:
    offered = {f"{FILES[3]}.gz": gzip.compress(small_mnist[FILES[3]], mtime=0)}
    addresses = [mirror(offered).address for _ in range(2)]
    with pytest.raises(DataError) as info:
        find_mnist()
    assert all(f"{address}: 404" in str(info.value) for address in addresses)


def test_the_second_mirror_is_used_where_the_first_hangs(
    small_mnist: dict[str, bytes], hanging_mirror: str, mirror: Callable[..., Mirror]
) -> None:
    """And at once: in this test the silent one would be given up only after an hour."""
    mirror(zipped(small_mnist))
    assert intact(find_mnist(), small_mnist)


def test_servers_that_hang_and_names_that_do_not_resolve_are_given_up(
    small_mnist: dict[str, bytes],
    hanging_mirror: str,
    one_sentence: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    hanging, released = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def hanging_look_up(host: str, *arguments: Any, **options: Any) -> list:
        if host == "hangs.invalid":
            hanging.set()
            released.wait()
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "name or service not known")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hanging_look_up)
    mirrors = (hanging_mirror, "https://hangs.invalid/", "http://unknown.invalid/", "http://no host/")
    monkeypatch.setattr(source, "MIRRORS", mirrors)
    monkeypatch.setattr(source, "SECONDS", 0.2)
    try:
        with pytest.raises(DataError, match="no MNIST files on this machine and no download server answers"):
            load_data("mnist")
        assert load_data().name == "digits"
        assert hanging.wait(60)  # and hangs still
        assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    finally:
        released.set()
    assert one_sentence(capsys.readouterr().out)


def test_a_mirror_that_falls_silent_within_a_file_is_given_up(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    archives = zipped(small_mnist)

    def fall_silent(name: str) -> bytes:
        released.wait()
        return archives[name]

    server = mirror(archives, fall_silent)
    monkeypatch.setattr(source, "_answering", lambda: iter([server.address]))
    monkeypatch.setattr(source, "SECONDS", 0.05)
    try:
        with pytest.raises(DataError, match=r"downloading MNIST failed: .*timed out"):
            find_mnist()
    finally:
        released.set()
    assert not list(downloads.iterdir())


# What else may be missing.


@pytest.mark.parametrize("package", ["pooch", "requests"])
def test_without_the_package_that_downloads_the_message_names_it(
    small_mnist: dict[str, bytes],
    mirror: Callable[..., Mirror],
    one_sentence: Callable[[str], bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys,
    package: str,
) -> None:
    mirror(zipped(small_mnist))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"import of {package} .*pip install pooch requests"):
        load_data("mnist")
    assert load_data().name == "digits"
    assert one_sentence(capsys.readouterr().out)


def test_a_folder_that_cannot_be_used_leaves_the_digits(
    small_mnist: dict[str, bytes], mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setattr(source, "download_folder", lambda: tmp_path / "a file")
    mirror(zipped(small_mnist))
    with pytest.raises(DataError, match=r"MNIST cannot be kept in .*a file.*KD_COURSE_DATA"):
        load_data("mnist")
    assert load_data().name == "digits"


def test_a_machine_without_a_folder_for_temporary_files_downloads_all_the_same(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    mirror(zipped(small_mnist))
    assert load_data("mnist", validation_size=10).name == "mnist"
    assert load_data("digits").name == "digits"
    assert intact(downloads / "raw", small_mnist)


def test_a_disk_that_is_full_is_named_and_nothing_half_stays(
    small_mnist: dict[str, bytes], downloads: Path, mirror: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror(zipped(small_mnist))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source, "_fetch", full)
    with pytest.raises(DataError, match=rf"No space left on device; it would be kept in {re.escape(str(downloads))}"):
        load_data("mnist")
    assert not list(downloads.iterdir())


# Two at once.

LOAD = """
import json, sys
from pathlib import Path
from kd_course.data import load_data, mnist
told = json.loads(sys.argv[1])
mnist.MIRRORS, mnist.ARCHIVES_MD5, mnist.MNIST_SHA256 = told["mirrors"], told["md5"], told["sha256"]
mnist.SECONDS = told["seconds"]
mnist.download_folder = lambda: Path(told["folder"])
print(json.dumps(load_data("mnist", validation_size=0).train.images.sum().item()))
"""


@pytest.mark.slow
def test_two_processes_that_download_at_once_do_not_harm_each_other(
    small_mnist: dict[str, bytes],
    downloads: Path,
    mirror: Callable[..., Mirror],
    package_environment: dict[str, str],
) -> None:
    together = threading.Barrier(2)
    archives = zipped(small_mnist)

    def wait_for_the_other(name: str) -> bytes:
        if name.startswith(FILES[0]):
            together.wait(timeout=240)  # so the two downloads do overlap
        return archives[name]

    mirror(archives, wait_for_the_other)
    tables = {"mirrors": source.MIRRORS, "md5": source.ARCHIVES_MD5, "sha256": source.MNIST_SHA256}
    told = {**tables, "seconds": source.SECONDS, "folder": str(downloads.parent)}
    command = [sys.executable, "-c", LOAD, json.dumps(told)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    loading = [subprocess.Popen(command, env=package_environment, **pipes) for _ in range(2)]
    pause = threading.Event()
    try:
        while any(process.poll() is None for process in loading):
            for name, content in small_mnist.items():  # at no moment is there half a file under its own name
                path = downloads / "raw" / name
                assert not path.exists() or path.read_bytes() == content
            pause.wait(0.005)
        answers = [process.communicate() for process in loading]
    finally:
        for process in loading:
            process.kill()
            process.communicate()
    expected = int(images_of(small_mnist, "train").sum())
    assert [out.strip() for out, _ in answers] == [str(expected)] * 2, answers
    assert not together.broken
    assert intact(downloads / "raw", small_mnist)
    assert [path.name for path in downloads.iterdir()] == ["raw"]
