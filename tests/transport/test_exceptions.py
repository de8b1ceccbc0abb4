from __future__ import annotations

import linecache
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest

from lightning_magics.errors import RunError, short_traceback
from lightning_magics.transport import exceptions, payload

CELL = """\
import torch
class TwoParts(ValueError):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.first = first
def product(a):
    return a + (
        a @ torch.ones(3))
class Net:
    def two(self):
        raise TwoParts(1, second={2: 3})
    def size(self):
        return product(torch.ones(4))
    def cause(self):
        try:
            {}["missing"]
        except KeyError as error:
            raise TypeError("wrong") from error
    def syntax(self):
        compile("a b", "<user>", "exec")
    def group(self):
        raise ExceptionGroup("both", [TwoParts(1, 2), KeyError("k")])
    def lock(self):
        import threading
        error = ValueError("held", threading.Lock())
        error.lock = threading.Lock()
        error.kept = 5
        error.add_note("a note")
        raise error
"""
RAISE = """
import sys, pathlib
from lightning_magics.transport import payload, exceptions as raised
net = payload.load(pathlib.Path(sys.argv[1]))
try:
    getattr(net, sys.argv[2])()
except BaseException as error:
    raised.save(error, pathlib.Path(sys.argv[3]), 1)
"""


@pytest.fixture
def from_elsewhere(shell, tmp_path, elsewhere):
    """Run a method of the cell's class in another process; return the file of what it raised."""
    shell.run_cell(CELL)
    payload.save(shell.user_ns["Net"](), tmp_path / "net.pt")
    worker = tmp_path / "site-packages" / "worker.py"  # of nobody's interest

    def run(method: str) -> Path:
        path = tmp_path / "error_1.pkl"
        done = elsewhere.run(RAISE, tmp_path / "net.pt", method, path, filename=str(worker))
        assert done.returncode == 0, done.stderr
        return path

    return run


def shown(shell, error, capsys):
    """What IPython shows of an exception that a cell raises."""

    def again():
        with short_traceback():
            raise error

    shell.user_ns["again"] = again
    capsys.readouterr()
    assert not shell.run_cell("again()").success
    return "".join(capsys.readouterr())  # groups are shown on stderr


def test_a_cells_lines_are_shown_as_if_it_had_been_raised_here(from_elsewhere, shell, capsys):
    told = exceptions.load(from_elsewhere("size"))
    assert (told.rank, told.type_name, told.secondary) == (1, "RuntimeError", False)
    assert [(frame.name, frame.line) for frame in told.frames] == [("size", 13), ("product", 8)]
    error = exceptions.rebuild(told)
    frames = traceback.extract_tb(error.__traceback__)
    assert [(f.name, f.lineno, f.line) for f in frames] == [
        ("size", 13, "return product(torch.ones(4))"), ("product", 8, "a @ torch.ones(3))"),
    ]  # fmt: skip
    assert CELL.splitlines()[7][frames[1].colno : frames[1].end_colno] == "a @ torch.ones(3)"
    page = shown(shell, error, capsys)
    assert "---> 13     return product(torch.ones(4))" in page
    assert re.search(r"-> 8 +a @ torch\.ones\(3\)\)", page)
    assert "Net.size()" in page or "in size()" in page
    assert "RuntimeError: inconsistent tensor size" in page


def test_a_class_of_the_notebook_is_its_own_and_stays_as_it_was(from_elsewhere, shell):
    cls = shell.user_ns["TwoParts"]
    before = dict(vars(cls))
    error = exceptions.rebuild(exceptions.load(from_elsewhere("two")))
    assert type(error) is cls
    assert (str(error), error.first) == ("1 and {2: 3}", 1)
    assert dict(vars(cls)) == before


def test_a_cause_is_shown_before(from_elsewhere, shell, capsys):
    told = exceptions.load(from_elsewhere("cause"))
    error = exceptions.rebuild(told)
    assert isinstance(error.__cause__, KeyError)
    page = shown(shell, error, capsys)
    assert page.index('{}["missing"]') < page.index("direct cause") < page.index("TypeError: wrong")
    lines = exceptions.traceback_text(told).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "KeyError: 'missing'" in lines
    assert "The above exception was the direct cause of the following exception:" in lines
    assert lines[-3].endswith("line 18, in cause")
    assert lines[-2:] == ['    raise TypeError("wrong") from error', "TypeError: wrong"]


def test_errors_of_every_making_arrive(from_elsewhere, shell, capsys):
    syntax = exceptions.rebuild(exceptions.load(from_elsewhere("syntax")))
    assert (type(syntax), syntax.lineno, syntax.filename) == (SyntaxError, 1, "<user>")
    assert "SyntaxError: invalid syntax" in shown(shell, syntax, capsys)
    group = exceptions.rebuild(exceptions.load(from_elsewhere("group")))
    assert [type(part) for part in group.exceptions] == [shell.user_ns["TwoParts"], KeyError]
    assert "ExceptionGroup: both (2 sub-exceptions)" in shown(shell, group, capsys)


def test_what_of_an_error_cannot_travel_is_left_out(from_elsewhere):
    told = exceptions.load(from_elsewhere("lock"))
    error = exceptions.rebuild(told)
    # Its message names the lock's address, which another one shows as text: so it is no longer the same.
    assert type(error) is RunError
    assert str(error).startswith("ValueError: ('held', <unlocked _thread.lock object at")


class HeldError(Exception):
    def __str__(self):
        return "always this"


class MuteError(Exception):
    def __str__(self):
        raise ValueError


def caught(error):
    with pytest.raises(type(error)) as info:
        raise error
    return info.value


def saved(error, path, rank=0):
    exceptions.save(caught(error), path, rank)
    return exceptions.load(path)


def test_attributes_that_cannot_travel_are_left_out_and_notes_stay(tmp_path):
    error = HeldError(threading.Lock())
    error.lock, error.kept = threading.Lock(), 5
    error.add_note("a note")
    told = saved(error, tmp_path / "e.pkl")
    again = exceptions.rebuild(told)
    assert (type(again), str(again), again.kept, again.__notes__) == (HeldError, "always this", 5, ["a note"])
    assert not hasattr(again, "lock")
    assert exceptions.traceback_text(told).endswith("test_exceptions.HeldError: always this\na note\n")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"), OSError(2, "No such file", "a.txt"), UnicodeDecodeError("utf-8", b"a", 0, 1, "bad"),
        StopIteration(3), SystemExit(2), KeyboardInterrupt(), ImportError("no", name="x"),
        subprocess.CalledProcessError(3, ["ls"]), RunError("run"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_built_in_errors_are_the_same(error, tmp_path):
    again = exceptions.rebuild(saved(error, tmp_path / "e.pkl"))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)


def test_an_error_that_cannot_be_shown_or_found_is_told_by_its_name(tmp_path):
    assert exceptions.traceback_text(saved(MuteError(), tmp_path / "e.pkl")).endswith(
        "test_exceptions.MuteError: <its __str__ raised ValueError>\n"
    )
    exceptions.save(caught(HeldError()), tmp_path / "e.pkl", 2)
    code = "import sys, pathlib; from lightning_magics.transport import exceptions as raised; e = raised.rebuild(raised.load(pathlib.Path(sys.argv[1]))); print(repr(e)); assert 'torch' not in sys.modules"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "e.pkl")], capture_output=True, text=True)
    assert done.stdout.strip() == "RunError('test_exceptions.HeldError: always this')", done.stderr


def test_a_kernel_that_never_saw_the_cell_is_given_its_lines(from_elsewhere, monkeypatch):
    path = from_elsewhere("two")
    filename = exceptions.load(path).frames[0].filename
    monkeypatch.delitem(linecache.cache, filename)
    assert linecache.getline(filename, 11) == ""
    exceptions.rebuild(exceptions.load(path))
    assert linecache.getline(filename, 11) == "        raise TwoParts(1, second={2: 3})\n"


def test_a_file_is_whole_and_its_owners_alone(tmp_path, monkeypatch):
    path = tmp_path / "error_3.pkl"
    saved(ValueError("a"), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        exceptions.save(ValueError("b"), path, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["error_3.pkl"]
    assert exceptions.load(path).message == "a"


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps({"rank": 1}), pickle.dumps([1])])
def test_a_broken_file_says_so(content, tmp_path):
    path = tmp_path / "error_3.pkl"
    path.write_bytes(content)
    told = exceptions.load(path)
    assert (told.rank, type(exceptions.rebuild(told))) == (3, RunError)
    assert told.message.startswith(f"its exception cannot be read from {path}: ")


PEERS = [
    RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"),
    RuntimeError("Connection reset by peer"),
    RuntimeError("Broken pipe"),
    RuntimeError("NCCL communicator was aborted on rank 1"),
    type("DistBackendError", (RuntimeError,), {})("timeout"),
]


@pytest.mark.parametrize("peer", PEERS, ids=str)
def test_the_first_error_counts_and_a_peer_that_is_gone_only_alone(peer, tmp_path):
    paths = [tmp_path / f"error_{rank}.pkl" for rank in range(4)]
    assert exceptions.earliest(paths) is None
    exceptions.save(caught(peer), paths[1], 1)
    assert exceptions.earliest(paths).rank == 1
    exceptions.save(caught(ValueError("first")), paths[0], 0)
    exceptions.save(caught(ValueError("second")), paths[2], 2)
    assert exceptions.earliest(paths).message == "first"
    assert exceptions.earliest(reversed(paths)).message == "first"


def test_a_chain_that_loops_ends(tmp_path):
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    told = saved(first, tmp_path / "e.pkl")
    assert exceptions.traceback_text(told).count("ValueError: first") < 10
    assert exceptions.rebuild(told).__cause__ is not None
