from __future__ import annotations

from lightning_magics.views.curves import Curve, thin


def filled(count: int, limit: int = 500) -> Curve:
    curve = Curve(limit)
    for x in range(count):
        curve.add(x, 2.0 * x)
    return curve


def test_few_points_stay_as_they_are():
    assert filled(3).points(100) == [(0, 0), (1, 2), (2, 4)]


def test_a_million_points_are_kept_as_some_hundreds_that_follow_the_same_line():
    curve = filled(1_000_000)
    assert 250 <= len(curve.xs) <= 500
    points = curve.points(10_000)
    assert all(abs(y - 2 * x) < 1e-3 for x, y in points)
    assert points[0][0] < 4000
    assert points[-1][0] > 996_000


def test_the_latest_value_is_shown_though_its_point_is_not_complete():
    curve = filled(11, limit=4)
    assert curve.stride == 4
    assert curve.points(100)[-1] == (9, 18)


def test_what_is_drawn_has_at_most_the_points_asked_for():
    assert len(filled(499).points(160)) <= 160
    assert filled(0).points(160) == []


def test_thinning_takes_means_of_neighbours():
    assert thin([1, 3, 5, 7, 9], 2) == [2, 6, 9]
    assert thin([1, 3], 1) == [1, 3]
