"""The agreement of ranks to stop at the same batch."""

import random
import stat
import threading
import time
from pathlib import Path

import pytest

from lightning_magics.transport.stop_control import Alone, Control, Together, Wish, reach


class Rank(threading.Thread):
    """A rank of random speed that meets the others in each batch, as an all-reduce does."""

    def __init__(self, path: Path, rank: int, batches: int, meeting: threading.Barrier | None, seed: int) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self._wish = Together(Control(path), rank)
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
    control = Control(tmp_path / "control", 3)
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
    control = Control(tmp_path / "control", 2)
    short = Rank(tmp_path / "control", 0, 3, None, 0)
    long = Rank(tmp_path / "control", 1, 10_000, None, 0)
    short.start()
    short.join(20)
    control.ask()
    long.start()
    long.join(20)
    assert [short.done, long.done] == [3, 0]


def test_ranks_that_were_asked_before_their_first_batch_do_none(tmp_path: Path) -> None:
    Control(tmp_path / "control", 2).ask()
    ranks = [Rank(tmp_path / "control", rank, 10, None, 0) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(20)
    assert [rank.done for rank in ranks] == [0, 0]


def test_ranks_without_a_collective_stop_by_themselves(tmp_path: Path) -> None:
    control = Control(tmp_path / "control", 2)
    stop = Alone(control)
    assert not stop.is_set()
    control.ask()
    assert stop.is_set()


def _stop_of_two(folder: Path, waits: list[tuple[float, ...]], patience_s: float) -> list[int]:
    """Ask two ranks to stop, each of which loads its batches so slowly; returns how many they did."""
    control = Control(folder / "control", 2)
    control.ask()
    meeting = threading.Barrier(2)
    done = [0, 0]

    def run(rank: int) -> None:
        wish = Together(Control(folder / "control"), rank, patience_s)
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
    control = Control(tmp_path / "control", 2)
    wishes = [Together(Control(tmp_path / "control"), rank, 0.05) for rank in range(2)]
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
    control = Control(tmp_path / "control", 2)
    Control(tmp_path / "control").done(1)
    assert [control.is_done(rank) for rank in range(2)] == [False, True]


def test_all_ranks_have_the_payload_once_the_last_one_says_so(tmp_path: Path) -> None:
    control = Control(tmp_path / "control", 2)
    assert not control.loaded(1)
    assert control.loaded(0)


def test_to_end_at_once_is_more_than_to_stop(tmp_path: Path) -> None:
    control, other = Control(tmp_path / "control", 1), Control(tmp_path / "control")
    control.ask()
    assert other.asked()
    assert not other.asked_now()
    control.ask(now=True)
    other.ask()
    assert control.asked_now()
    assert not control.asked()  # no rank begins to save


def test_the_shared_memory_is_its_owners_and_takes_its_room_at_once(tmp_path: Path) -> None:
    Control(tmp_path / "control", 2)
    found = (tmp_path / "control").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_blocks > 0


def test_a_wish_in_a_file_is_seen_by_all_who_look(tmp_path):
    path = tmp_path / "control"
    kernel = Wish(path, make=True)
    rank = reach(path)
    assert isinstance(rank, Wish)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not rank.asked()
    assert not rank.asked_now()
    kernel.ask()
    assert rank.asked()
    assert rank.why() == ""
    kernel.ask(now=True)
    assert rank.asked_now()
    assert not rank.asked()  # nothing more is saved
    kernel.ask()
    assert reach(path).asked_now()  # the stronger wish stays


def test_a_wish_says_why_and_a_shorter_one_leaves_nothing_of_it(tmp_path):
    path = tmp_path / "control"
    Wish(path, make=True).ask(why="the time limit came near")
    rank = reach(path)
    assert rank.asked()
    assert rank.why() == "the time limit came near"
    Wish(path).ask(now=True)
    assert path.read_text() == "2 "


def test_a_wish_that_is_looked_at_seldom_is_seen_later(tmp_path):
    path = tmp_path / "control"
    kernel = Wish(path, make=True)
    seldom = reach(path, look_s=3600)
    assert not seldom.asked()
    kernel.ask()
    assert not seldom.asked()
    assert reach(path).asked()


def test_memory_that_is_shared_is_no_wish_in_a_file(tmp_path):
    control = Control(tmp_path / "control", 2)
    control.ask()
    assert isinstance(reach(tmp_path / "control"), Control)
    with pytest.raises(FileNotFoundError):
        reach(tmp_path / "nothing")


def test_a_wish_whose_file_is_gone_is_as_it_was(tmp_path):
    path = tmp_path / "control"
    wish = Wish(path, make=True)
    path.unlink()
    assert not wish.asked()
