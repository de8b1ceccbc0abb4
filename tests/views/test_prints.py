from __future__ import annotations

import pytest

from lightning_magics.views.prints import Allowance, Prints, lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", ["a", "b"]),
        ("a\r\nb  ", ["a", "b"]),
        ("\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x1b\\ \x1b(Bplain\x1b[K", ["red link plain"]),
        ("\r 10%|█ |\r 50%|██|\r100%|███|\r\x1b[A", ["100%|███|"]),
        ("cut off \x1b[3", ["cut off"]),
        ("bell\x07 back\x08 tab\t.\u2028", ["bell back tab\t."]),
        ("\udce9", ["\\udce9"]),
        ("", [""]),
    ],
)
def test_lines_are_left_as_a_terminal_would_leave_them(text, expected):
    assert lines(text) == expected


def test_the_last_twenty_lines_are_kept_and_the_others_counted():
    prints = Prints()
    for start in range(0, 2000, 100):
        prints.add(1, "\n".join(str(i) for i in range(start, start + 100)))
    assert prints.last() == [(1, str(i)) for i in range(1980, 2000)]
    assert prints.omitted() == {1: 1980}


def test_a_rank_that_prints_much_does_not_push_out_the_others():
    prints = Prints()
    prints.add(1, "only line")
    for i in range(100):
        prints.add(0, str(i))
    assert prints.last() == [*((0, str(i)) for i in range(81, 100)), (1, "only line")]
    assert prints.omitted() == {0: 81}


def test_the_order_in_which_logs_are_read_does_not_matter():
    side_by_side, one_by_one = Prints(), Prints()
    for i in range(50):
        for rank in range(3):
            side_by_side.add(rank, str(i))
    for rank in (2, 0, 1):
        one_by_one.add(rank, "\n".join(map(str, range(50))))
    assert side_by_side.last() == one_by_one.last()
    assert side_by_side.omitted() == one_by_one.omitted() == {0: 43, 1: 43, 2: 44}


def test_of_more_ranks_than_there_is_room_for_the_first_are_shown():
    prints = Prints()
    for rank in range(64):
        prints.add(rank, "hello")
    assert prints.last() == [(rank, "hello") for rank in range(20)]
    assert prints.omitted() == dict.fromkeys(range(20, 64), 1)


def test_long_lines_are_clipped():
    prints = Prints()
    prints.add(0, "x" * 10_000)
    assert prints.last() == [(0, "x" * 199 + "…")]


def test_a_terminal_shows_a_burst_of_each_rank_and_then_five_lines_a_second_in_all():
    allowance = Allowance(ranks=2)
    burst = [(rank, allowance.take(rank, 10.0)) for _ in range(60) for rank in (0, 1)]
    assert [sum(shown for by, shown in burst if by == rank) for rank in (0, 1)] == [50, 50]
    later = [allowance.take(rank, 10.0 + second) for second in range(1, 11) for _ in range(9) for rank in (0, 1)]
    assert sum(later) == 50
    assert sum(allowance.omitted.values()) == 20 + 180 - 50
    assert set(allowance.omitted) == {0, 1}
