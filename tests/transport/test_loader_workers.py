"""Notebook objects in DataLoader workers: real processes that have the notebook's classes by value alone."""

import ast
import time
from pathlib import Path

import cloudpickle
import pytest

NOTEBOOK = """
import dataclasses, os
import torch
from torch.utils.data import Dataset, IterableDataset

@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    process: int
    start: int

class Broken(Exception):
    pass

class Rows(Dataset):
    def __init__(self, broken=False):
        self.rows, self.broken = torch.arange(6.0), broken
    def __len__(self):
        return 6
    def __getitem__(self, index):
        if self.broken:
            raise Broken(index)
        return self.rows[index]

class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(4.0))

start = 0
def begin(value):
    global start
    start = value

def collate(rows):
    return Batch(torch.stack(rows), os.getpid(), start)

defined = Batch, Broken, Rows, Stream, collate, lambda worker: begin(worker + 7)
"""

RANK = """
import pickle, sys
from torch.utils.data import DataLoader
from lightning_magics.transport.loader_workers import patch_worker_pickling

patch_worker_pickling()
# Under other names than their own, by which they would be found.
a_batch, an_error, some_rows, a_stream, as_batch, at_begin = pickle.load(sys.stdin.buffer)

def loader(rows, **more):
    asked = {"num_workers": 1, "multiprocessing_context": sys.argv[1], "timeout": 60, "collate_fn": as_batch}
    return DataLoader(rows, 2, **asked, **more)

kept = loader(some_rows(), persistent_workers=True, worker_init_fn=at_begin)
batches = [batch for epoch in range(2) for batch in kept]
streamed = list(loader(a_stream()))
raised = None
try:
    list(loader(some_rows(broken=True)))
except an_error as error:
    raised = str(error).splitlines()[-1]
print({
    "values": [batch.x.tolist() for batch in batches],
    "streamed": [batch.x.tolist() for batch in streamed],
    "same class": all(isinstance(batch, a_batch) for batch in batches + streamed),
    "shared": all(batch.x.is_shared() for batch in batches + streamed),
    "begun": {batch.start for batch in batches},
    "processes": {batch.process for batch in batches + streamed},
    "raised": raised,
})
"""


@pytest.fixture
def run(elsewhere):
    """Runs Python in a session of its own; returns what it printed, as a value, and the session's id."""

    def run(script, *arguments, given=b""):
        done = elsewhere.run(f"import os; os.setsid()\n{script}\nprint(os.getpid())", *arguments, given=given)
        assert done.returncode == 0, done.stderr
        value, process = done.stdout.splitlines()
        return ast.literal_eval(value), int(process)

    return run


@pytest.fixture(scope="module")
def defined():
    """What the notebook defined, pickled in a process of its own."""
    found = {"__name__": "__main__"}
    exec(NOTEBOOK, found)
    return cloudpickle.dumps(found["defined"])


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_take_and_return_objects_of_the_notebook(method, defined, run):
    found, session = run(RANK, method, given=defined)
    assert found["values"] == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]] * 2
    assert found["streamed"] == [[0.0, 1.0], [2.0, 3.0]]
    assert found["same class"]
    assert found["shared"]  # tensors are not copied through the queue
    assert found["begun"] == {7}
    assert len(found["processes"]) == 2  # one a loader: the first loader's worker was kept for both epochs
    assert found["raised"].endswith("Broken: 0")
    _assert_nothing_is_left(session, found["processes"])


def _assert_nothing_is_left(session, workers):
    deadline = time.monotonic() + 20  # a forkserver ends by itself when its last client has
    while _session(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _session(session)
    if Path("/dev/shm").exists():
        names = [path.name for path in Path("/dev/shm").iterdir()]
        assert not [name for name in names for process in {session, *workers} if f"_{process}_" in name]


def _session(session):
    """The processes of a session, zombies among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append(path.parent.name)
    return found


def test_without_it_a_notebook_class_cannot_be_sent(defined, run):
    script = """
import multiprocessing.reduction, sys, pickle
a_batch = pickle.load(sys.stdin.buffer)[0]
def sent():
    try:
        return bool(multiprocessing.reduction.ForkingPickler.dumps(a_batch(1, 2, 3)))
    except pickle.PicklingError:
        return False
before = sent()
from lightning_magics.transport.loader_workers import patch_worker_pickling
patch_worker_pickling()
print([before, sent()])
"""
    assert run(script, given=defined)[0] == [False, True]


@pytest.mark.parametrize(("given", "kept"), [({}, "false"), ({"TOKENIZERS_PARALLELISM": "true"}, "true")])
def test_tokenizers_are_told_of_forks_unless_the_user_told_them(given, kept, run):
    script = f"""
os.environ.pop("TOKENIZERS_PARALLELISM", None)
os.environ.update({given})
from lightning_magics.transport.loader_workers import patch_worker_pickling
patch_worker_pickling()
print(repr(os.environ["TOKENIZERS_PARALLELISM"]))
"""
    assert run(script)[0] == kept
