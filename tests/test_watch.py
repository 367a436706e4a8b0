"""Watched files: what counts as a change, and when it is told."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from rerankd import watch
from rerankd.watch import Watched, keep_current
from support import until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("one")
    return file


def test_what_stays_is_no_change(file: Path) -> None:
    watched = Watched(str(file))
    assert not any(watched.changed() for _ in range(3))


def test_a_change_is_told_once_and_when_it_has_settled(file: Path) -> None:
    watched = Watched(str(file))
    file.write_text("one and a half")
    assert not watched.changed()
    file.write_text("one and a half and two")  # still being written
    assert not watched.changed()
    assert watched.changed()
    assert not watched.changed()


def test_any_of_several_files(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("a")
    watched = Watched(str(file), str(other))
    other.write_text("b")
    os.utime(other, ns=(0, 0))  # whatever the clock's steps are
    assert [watched.changed(), watched.changed()] == [False, True]


def test_a_file_that_goes_and_comes_back(file: Path) -> None:
    watched = Watched(str(file))
    file.unlink()
    assert [watched.changed(), watched.changed(), watched.changed()] == [False, True, False]
    file.write_text("two")
    assert [watched.changed(), watched.changed()] == [False, True]


def test_a_link_that_leads_elsewhere_now(tmp_path: Path) -> None:
    # How Kubernetes swaps a secret: data/file stays, ..data leads to another directory.
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same size")
    data = tmp_path / "..data"
    data.symlink_to(tmp_path / "old")
    watched = Watched(str(data / "file"))
    fresh = tmp_path / "..fresh"
    fresh.symlink_to(tmp_path / "new")
    fresh.rename(data)
    assert [watched.changed(), watched.changed()] == [False, True]


async def test_one_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.001)
    calls = 0

    def fails() -> None:
        raise RuntimeError("planted")

    def counts() -> None:
        nonlocal calls
        calls += 1

    with caplog.at_level(logging.ERROR):
        task = asyncio.create_task(keep_current(fails, counts))
        await until(lambda: calls >= 2)
        task.cancel()
        await asyncio.wait([task])
    assert "planted" in caplog.text
