"""What ranks print, as a terminal would leave it: the last lines of each, and how many of them a terminal may show.

How they look is in `report`.
"""

from __future__ import annotations

import re
from collections import deque

from .. import formats

_MAX_LINES = 20  # of all ranks together
_MAX_LENGTH = 200  # characters of a line that is kept
_BURST = 50
_PER_S = 5.0

# Colours, cursor movements, titles and links: CSI sequences, strings that BEL or ST ends, and two-character ones.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def lines(text: str) -> list[str]:
    """Return the lines of a text as a terminal would leave them.

    Without escape sequences; of a line that carriage returns drew over, as progress bars do, the last state.
    """
    readable = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate would break a message
    return [_last_state(line) for line in _ESCAPES.sub("", readable).split("\n")]


def _last_state(line: str) -> str:
    last = next((state for state in reversed(line.split("\r")) if state.strip()), "")
    return _CONTROLS.sub("", last).rstrip()


class Prints:
    """The last lines that each rank printed, and how many came before them.

    Kept by rank, so that the same is shown whether the ranks' logs were read side by side or one after the other, and
    a rank that prints much does not push out what the others said.
    """

    def __init__(self) -> None:
        self._last_lines: dict[int, deque[str]] = {}
        self._counts: dict[int, int] = {}

    def add(self, rank: int, text: str) -> None:
        """Add lines of a rank."""
        last_lines = self._last_lines.setdefault(rank, deque(maxlen=_MAX_LINES))
        new_lines = lines(text)
        last_lines.extend(formats.clip(line, _MAX_LENGTH) for line in new_lines[-_MAX_LINES:])
        self._counts[rank] = self._counts.get(rank, 0) + len(new_lines)

    def last(self) -> list[tuple[int, str]]:
        """Return the last lines, each with its rank, by rank: at most 20, shared fairly between the ranks."""
        return [(rank, line) for rank, share in self._shares().items() if share for line in self._tail(rank, share)]

    def omitted(self) -> dict[int, int]:
        """Return how many lines of each rank came before the last ones; without the ranks that have none."""
        before = {rank: self._counts[rank] - share for rank, share in self._shares().items()}
        return {rank: count for rank, count in before.items() if count}

    def _tail(self, rank: int, share: int) -> list[str]:
        return list(self._last_lines[rank])[-share:]

    def _shares(self) -> dict[int, int]:
        """Rank to the number of its lines that have room; what a rank does not need goes to the others."""
        room, shares = _MAX_LINES, {}
        ranks = sorted(self._last_lines, key=lambda rank: (len(self._last_lines[rank]), -rank))
        for place, rank in enumerate(ranks):
            shares[rank] = min(len(self._last_lines[rank]), room // (len(ranks) - place))
            room -= shares[rank]
        return dict(sorted(shares.items()))


class Allowance:
    """How many lines a terminal may show: of each rank a burst of 50, and 5 a second in all after that.

    Args:
        ranks: number of ranks that share the lines of a second.

    Attributes:
        omitted: rank to the number of its lines that were refused.
    """

    def __init__(self, ranks: int = 1) -> None:
        self.omitted: dict[int, int] = {}
        self._per_s = _PER_S / max(1, ranks)
        self._room: dict[int, tuple[float, float]] = {}

    def take(self, rank: int, now_s: float) -> bool:
        """Return whether one more line of a rank may be shown, at a time in seconds."""
        room, since_s = self._room.get(rank, (float(_BURST), now_s))
        room = min(float(_BURST), room + (now_s - since_s) * self._per_s)
        allowed = room >= 1
        self._room[rank] = (room - allowed, now_s)
        if not allowed:
            self.omitted[rank] = self.omitted.get(rank, 0) + 1
        return allowed
