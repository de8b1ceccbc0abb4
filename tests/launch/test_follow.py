from __future__ import annotations

from pathlib import Path

import pytest

from lightning_magics.launch.follow import Follower
from lightning_magics.runs import events
from lightning_magics.runs import folder as runs
from lightning_magics.runs.log import mark_lines


@pytest.fixture
def folder(tmp_path: Path) -> runs.RunFolder:
    return runs.create(tmp_path, "Net")


def write(folder: runs.RunFolder, text: str, rank: int = 0) -> None:
    with folder.log_path(rank).open("a", newline="") as log:
        log.write(text)


def printed(follower: Follower, last: bool = False) -> list[tuple[int, str]]:
    return [(event.rank, event.text) for event in follower.read(last) if isinstance(event, events.Printed)]


def test_what_the_user_prints_is_told_whatever_it_begins_with(folder):
    follower = Follower(folder)
    write(folder, "# Results\n" + mark_lines("Lightning said\nsomething\n") + "1. a\n\n")
    assert printed(follower) == [(0, "# Results\n1. a\n")]


def test_the_last_line_may_be_without_its_end(folder):
    follower = Follower(folder)
    write(folder, "one\ntwo")
    write(folder, "of the other", rank=1)
    assert printed(follower) == [(0, "one")]
    assert printed(follower, last=True) == [(0, "two"), (1, "of the other")]
    assert printed(follower, last=True) == []


def test_the_end_is_told_after_what_was_printed(folder):
    follower = Follower(folder)
    ended = events.Ended("completed", 1.0)
    writer = runs.EventWriter(folder.events_path)
    writer.write(ended)
    writer.close()
    write(folder, "one\n")
    assert follower.read() == [events.Printed(0, "one"), ended]
