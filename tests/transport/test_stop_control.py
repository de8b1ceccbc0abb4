"""The agreement of ranks to stop at the same batch."""

import random
import stat
import threading
import time
from pathlib import Path

import pytest

from lightning_magics.transport.stop_control import (
    IndependentStop,
    StopFile,
    StopMemory,
    SynchronizedStop,
    open_stop_control,
)


class Rank(threading.Thread):
    """A rank of random speed that meets the others in each batch, as an all-reduce does."""

    def __init__(self, path: Path, rank: int, batches: int, meeting: threading.Barrier | None, seed: int) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._wish = SynchronizedStop(StopMemory(path), rank)
        self._batches = batches
        self._meeting = meeting
        self._random = random.Random(seed + rank)

    def run(self) -> None:
        for _ in range(self._batches):
            if self._wish.is_set():
                break
            time.sleep(self._random.random() * 0.004)
            if self._meeting is not None:
                self._meeting.wait(20)
            self.done += 1
        self._wish.end()


@pytest.mark.parametrize("seed", range(8))
def test_ranks_of_any_speed_stop_at_the_same_batch(tmp_path: Path, seed: int) -> None:
    control = StopMemory(tmp_path / "control", 3)
    meeting = threading.Barrier(3)
    ranks = [Rank(tmp_path / "control", rank, 10_000, meeting, seed) for rank in range(3)]
    for rank in ranks:
        rank.start()
    time.sleep(random.Random(seed).random() * 0.1)
    control.ask()
    for rank in ranks:
        rank.join(20)
        assert not rank.is_alive()
    assert len({rank.done for rank in ranks}) == 1
    assert ranks[0].done < 10_000


def test_a_rank_that_ended_earlier_holds_nobody_up(tmp_path: Path) -> None:
    control = StopMemory(tmp_path / "control", 2)
    short = Rank(tmp_path / "control", 0, 3, None, 0)
    long = Rank(tmp_path / "control", 1, 10_000, None, 0)
    short.start()
    short.join(20)
    control.ask()
    long.start()
    long.join(20)
    assert [short.done, long.done] == [3, 0]


def test_ranks_that_were_asked_before_their_first_batch_do_none(tmp_path: Path) -> None:
    StopMemory(tmp_path / "control", 2).ask()
    ranks = [Rank(tmp_path / "control", rank, 10, None, 0) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(20)
    assert [rank.done for rank in ranks] == [0, 0]


def test_ranks_without_a_collective_stop_by_themselves(tmp_path: Path) -> None:
    control = StopMemory(tmp_path / "control", 2)
    stop = IndependentStop(control)
    assert not stop.is_set()
    control.ask()
    assert stop.is_set()


def _stop_of_two(folder: Path, waits: list[tuple[float, ...]], patience_s: float) -> list[int]:
    """Ask two ranks to stop, each of which loads its batches so slowly; returns how many they did."""
    control = StopMemory(folder / "control", 2)
    control.ask()
    meeting = threading.Barrier(2)
    done = [0, 0]

    def run(rank: int) -> None:
        wish = SynchronizedStop(StopMemory(folder / "control"), rank, patience_s)
        for trained in range(1, 20):
            time.sleep(waits[rank][min(trained - 1, len(waits[rank]) - 1)])
            if wish.is_set(trained):
                return
            meeting.wait(20)
            done[rank] = trained

    ranks = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(20)
        assert not rank.is_alive()
    return done


@pytest.mark.parametrize("patience_s", [0.02, 0.1])
def test_a_rank_whose_data_is_late_is_met_at_a_later_batch(tmp_path: Path, patience_s: float) -> None:
    done = _stop_of_two(tmp_path, [(0.0,), (0.15,)], patience_s)
    assert done[0] == done[1]
    assert 1 <= done[0] <= 5


@pytest.mark.parametrize("seed", range(20))
def test_patience_that_ends_as_the_other_arrives_parts_nobody(tmp_path: Path, seed: int) -> None:
    late_s = 0.02 + random.Random(seed).uniform(-0.003, 0.003)
    done = _stop_of_two(tmp_path, [(0.0,), (late_s, 0.0)], 0.02)
    assert done[0] == done[1] <= 1


def test_ranks_meet_again_after_a_validation_of_unequal_length(tmp_path: Path) -> None:
    control = StopMemory(tmp_path / "control", 2)
    wishes = [SynchronizedStop(StopMemory(tmp_path / "control"), rank, 0.05) for rank in range(2)]
    for rank, batches in enumerate([3, 5]):
        assert not wishes[rank].is_set(1)
        assert not any(wishes[rank].is_set(1) for _ in range(batches))
    control.ask()
    found: list[bool] = []
    ranks = [threading.Thread(target=lambda wish=wish: found.append(wish.is_set(2)), daemon=True) for wish in wishes]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(20)
    assert found == [True, True]


def test_a_rank_has_failed_unless_it_said_that_it_is_done(tmp_path: Path) -> None:
    control = StopMemory(tmp_path / "control", 2)
    StopMemory(tmp_path / "control").done(1)
    assert [control.is_done(rank) for rank in range(2)] == [False, True]


def test_all_ranks_have_the_payload_once_the_last_one_says_so(tmp_path: Path) -> None:
    control = StopMemory(tmp_path / "control", 2)
    assert not control.loaded(1)
    assert control.loaded(0)


def test_to_end_at_once_is_more_than_to_stop(tmp_path: Path) -> None:
    control, other = StopMemory(tmp_path / "control", 1), StopMemory(tmp_path / "control")
    control.ask()
    assert other.is_requested()
    assert not other.is_abort_requested()
    control.ask(now=True)
    other.ask()
    assert control.is_abort_requested()
    assert not control.is_requested()  # no rank begins to save


def test_the_shared_memory_is_its_owners_and_takes_its_room_at_once(tmp_path: Path) -> None:
    StopMemory(tmp_path / "control", 2)
    found = (tmp_path / "control").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_blocks > 0


def test_a_wish_in_a_file_is_seen_by_all_who_look(tmp_path):
    path = tmp_path / "control"
    kernel = StopFile(path, make=True)
    rank = open_stop_control(path)
    assert isinstance(rank, StopFile)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not rank.is_requested()
    assert not rank.is_abort_requested()
    kernel.ask()
    assert rank.is_requested()
    assert rank.reason() == ""
    kernel.ask(now=True)
    assert rank.is_abort_requested()
    assert not rank.is_requested()  # nothing more is saved
    kernel.ask()
    assert open_stop_control(path).is_abort_requested()  # the stronger wish stays


def test_a_wish_says_why_and_a_shorter_one_leaves_nothing_of_it(tmp_path):
    path = tmp_path / "control"
    StopFile(path, make=True).ask(reason="the time limit came near")
    rank = open_stop_control(path)
    assert rank.is_requested()
    assert rank.reason() == "the time limit came near"
    StopFile(path).ask(now=True)
    assert path.read_text() == "2 "


def test_a_wish_that_is_looked_at_seldom_is_seen_later(tmp_path):
    path = tmp_path / "control"
    kernel = StopFile(path, make=True)
    seldom = open_stop_control(path, look_s=3600)
    assert not seldom.is_requested()
    kernel.ask()
    assert not seldom.is_requested()
    assert open_stop_control(path).is_requested()


def test_memory_that_is_shared_is_no_wish_in_a_file(tmp_path):
    control = StopMemory(tmp_path / "control", 2)
    control.ask()
    assert isinstance(open_stop_control(tmp_path / "control"), StopMemory)
    with pytest.raises(FileNotFoundError):
        open_stop_control(tmp_path / "nothing")


def test_a_wish_whose_file_is_gone_is_as_it_was(tmp_path):
    path = tmp_path / "control"
    wish = StopFile(path, make=True)
    path.unlink()
    assert not wish.is_requested()
