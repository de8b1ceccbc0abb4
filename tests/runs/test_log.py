from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_magics.runs.log import AppendedText, NewLines, mark_lines


def test_a_mark_cannot_be_seen():
    assert mark_lines("a\nb\n").replace("\u2060", "") == "# a\n# b\n"


def test_text_is_appended_whatever_it_holds(tmp_path):
    for text in ("one\n", "bad \udce9\n"):
        with AppendedText(tmp_path / "log") as log:
            log.write(text)
            assert (tmp_path / "log").read_text().endswith("\n")  # at once
    assert (tmp_path / "log").read_text() == "one\nbad \\udce9\n"
    assert log.failure is None


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null/no-such-folder"])
def test_what_cannot_be_written_is_no_error(place):
    with AppendedText(Path(place)) as log:
        log.write("x" * 100_000 + "\n")
        log.write("stays in the buffer")
    assert isinstance(log.failure, OSError)


def test_an_open_file_stays_open(tmp_path):
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    with AppendedText(file) as log:
        log.write("one\n")
    os.write(file, b"two\n")
    os.close(file)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_lines_end_with_newlines_alone(tmp_path):
    lines = NewLines(tmp_path / "log")
    assert lines.read() == []
    (tmp_path / "log").write_text("10%\r100%\x0c\u2028done\nhalf", newline="")
    assert lines.read() == ["10%\r100%\x0c\u2028done"]
    assert lines.read(last=True) == ["half"]


def test_a_file_that_was_truncated_is_read_on(tmp_path):
    path, lines = tmp_path / "log", NewLines(tmp_path / "log")
    path.write_text("one\ntwo\n")
    assert lines.read() == ["one", "two"]
    path.write_text("")
    assert lines.read() == []
    path.write_text("six\n")
    assert lines.read() == ["six"]


def test_of_a_file_that_grows_fast_the_last_lines_are_read(tmp_path):
    (tmp_path / "log").write_text("one\ntwo\nthree\n")
    assert NewLines(tmp_path / "log", most=8).read() == ["three"]
