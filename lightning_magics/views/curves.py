"""A curve of bounded size: points go in without end, at most some hundreds are kept.

How curves are drawn is in `charts`; which metric is a point of which curve is in `state`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Curve:
    """Points (x, y) in the order they came; neighbours merge into their mean where there are too many.

    Attributes:
        limit: most points kept.
        xs: global steps of the complete points.
        ys: their values.
        stride: number of values that one point is the mean of.
    """

    limit: int = 500
    xs: list[float] = field(default_factory=list)
    ys: list[float] = field(default_factory=list)
    stride: int = 1
    _count: int = 0
    _sum_x: float = 0.0
    _sum_y: float = 0.0

    def add(self, x: float, y: float) -> None:
        """Add a finite value."""
        self._count += 1
        self._sum_x += x
        self._sum_y += y
        if self._count < self.stride:
            return
        self.xs.append(self._sum_x / self.stride)
        self.ys.append(self._sum_y / self.stride)
        self._count, self._sum_x, self._sum_y = 0, 0.0, 0.0
        if len(self.xs) >= self.limit:
            self.xs, self.ys = thin(self.xs, 2), thin(self.ys, 2)
            self.stride *= 2

    def points(self, most: int) -> list[tuple[float, float]]:
        """Return at most `most` points, the latest values included."""
        xs, ys = self.xs, self.ys
        if self._count:  # values that no complete point holds yet
            xs, ys = [*xs, self._sum_x / self._count], [*ys, self._sum_y / self._count]
        by = -(-len(xs) // most)
        return list(zip(thin(xs, by), thin(ys, by), strict=True))


def thin(values: list[float], by: int) -> list[float]:
    """Return the means of each `by` neighbours; the last group may be smaller."""
    if by <= 1:
        return values
    groups = (values[start : start + by] for start in range(0, len(values), by))
    return [sum(group) / len(group) for group in groups]
