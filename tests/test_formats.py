from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from lightning_magics import formats


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.51234, "0.5123"),
        (12.3456, "12.35"),
        (1234.56, "1235"),
        (0.0123456, "0.01235"),
        (1e-5, "1.000e-05"),
        (0, "0"),
        (3, "3"),
        (1.0, "1.000"),
        (-0.25, "-0.2500"),
        (123456789.0, "1.235e+08"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_has_four_significant_digits(value, expected):
    assert formats.number(value) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.30258, 0.51234, 0.04567], ["2.303", "0.512", "0.046"]),
        ([2.30258, 0.0012], ["2.3026", "0.0012"]),
        ([1e-3, 1e-4, 1e-5], ["0.001000", "0.000100", "0.000010"]),
        ([1e-5, 3e-9], ["1.000e-05", "3.000e-09"]),
        ([10, 200, 3000], ["10", "200", "3000"]),
        ([0.5, None, math.nan], ["0.5000", "", "nan"]),
        ([], []),
        ([None], [""]),
    ],
)
def test_the_numbers_of_a_column_line_up(values, expected):
    assert formats.column(values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 1.0, 1.5], ["0.5", "1.0", "1.5"]),
        ([0.92, 0.94], ["0.92", "0.94"]),
        ([0, 200, 400], ["0", "200", "400"]),
        ([1e-7, 2e-7], ["1e-07", "2e-07"]),
        ([2.0], ["2"]),
        ([], []),
    ],
)
def test_an_axis_has_the_decimals_that_tell_its_values_apart(values, expected):
    assert formats.axis(values) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0432, "43 ms"),
        (0.8, "0.8 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (59.7, "1:00 min"),
        (65, "1:05 min"),
        (3599.6, "1:00:00 h"),
        (7390, "2:03:10 h"),
    ],
)
def test_a_duration_reads_naturally(seconds, expected):
    assert formats.duration(seconds) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0, "1 s"), (1.2, "2 s"), (59.2, "1:00 min"), (64.5, "1:05 min")])
def test_a_time_left_is_in_whole_seconds(seconds, expected):
    assert formats.remaining(seconds) == expected


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(512, "512 B"), (980e6, "980 MB"), (1.1e9, "1.1 GB"), (141e9, "141 GB"), (2e12, "2.0 TB")],
)
def test_a_size_has_its_unit(size_bytes, expected):
    assert formats.size(size_bytes) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4938, "4,938"), (85_250, "85.2 K"), (1_240_000, "1.24 M"), (125e6, "125 M"), (7.24e9, "7.24 B")],
)
def test_a_count_is_short(value, expected):
    assert formats.count(int(value)) == expected


@pytest.mark.parametrize(("per_s", "expected"), [(1234.5, "1,234"), (98.12, "98.1"), (0.519, "0.52")])
def test_a_speed_has_three_digits(per_s, expected):
    assert formats.speed(per_s) == expected


def test_plurals_and_clipped_texts():
    assert [formats.plural(*item) for item in ((1, "epoch"), (3300, "step"), (2, "batch"))] == [
        "1 epoch",
        "3,300 steps",
        "2 batches",
    ]
    assert formats.clip("abcdef", 4) == "abc…"
    assert formats.clip("abcd", 4) == "abcd"


def test_of_many_names_the_first_are_listed():
    assert formats.first_few([np.float32(0.5), "b", torch.tensor(3)]) == "0.5, b, 3"
    assert formats.first_few(range(9)) == "0, 1, 2, 3, 4, 5, 6, 7, …"
    assert formats.first_few(iter("abc"), 2) == "a, b, …"
    assert formats.first_and_more("abcde", 5) == "a, b, c, d, e"
    assert formats.first_and_more("abcde", 3) == "a, b, c and 2 more"


def test_a_moment_is_told_in_the_local_zone(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert formats.moment(1_790_000_000) == "2026-09-21 14:13"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_some_plurals_take_es():
    assert [formats.plural(2, noun) for noun in ("epoch", "batch", "process")] == [
        "2 epochs",
        "2 batches",
        "2 processes",
    ]
