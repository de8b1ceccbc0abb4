"""Which signs a picture can show: by its own font, by another one of the machine, or by something that stands for them.

Text in html needs none of this.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

# Names of fonts that have the signs of many languages, which are looked at first.
_BROAD_FONTS = ("cjk", "noto sans", "han", "hei", "song", "ming", "gothic", "unicode", "wqy", "droid")
_COLOUR_FONTS = ("emoji", "color", "lastresort")  # matplotlib cannot draw them


def families(texts: Iterable[str]) -> list[str]:
    """The font families for texts: that of the notebook's pictures, and others of the machine for what it lacks."""
    import matplotlib as mpl

    names, missing = list(mpl.rcParams["font.family"]), _missing(texts)
    for path, name in _others() if missing else ():
        covered = {sign for sign in missing if ord(sign) in _signs(path)}
        if covered:
            names.append(name)
            missing -= covered
        if not missing:
            break
    return names


def displayable(text: str, font_names: Iterable[str], stand_in: str) -> str:
    """A text as a picture can show it.

    Args:
        text: it.
        font_names: families that it is drawn with.
        stand_in: what is written in its place where these lack a sign of it.
    """
    paths = {name: path for path, name in _others()} if _missing([text]) else {}
    lacking = {
        sign
        for sign in _missing([text])
        if not any(ord(sign) in _signs(paths[name]) for name in font_names if name in paths)
    }
    return stand_in if lacking else text


def ascii_text(text: str) -> str:
    """A text in ASCII, its other signs as Python writes them."""
    return text.encode("ascii", "backslashreplace").decode()


def width(text: str) -> int:
    """How wide a text is, in letters: signs of Chinese, Japanese and Korean are twice as wide."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _missing(texts: Iterable[str]) -> set[str]:
    """The signs that the font of the notebook's pictures does not have."""
    signs = {sign for text in texts for sign in text if not sign.isascii()}
    if not signs:
        return set()
    from matplotlib.font_manager import FontProperties, findfont

    own = _signs(str(findfont(FontProperties())))
    return {sign for sign in signs if ord(sign) not in own}


def _others() -> list[tuple[str, str]]:
    """Path and family of each font of the machine that may be drawn with, the likeliest first."""
    from matplotlib.font_manager import fontManager

    paths: dict[str, str] = {}
    for item in sorted(
        fontManager.ttflist, key=lambda item: (item.style != "normal", item.weight not in (400, "normal"))
    ):
        if not _is_coloured(item):
            paths.setdefault(item.name, item.fname)
    names = sorted(paths, key=lambda name: not any(part in name.lower() for part in _BROAD_FONTS))
    return [(paths[name], name) for name in names]


def _is_coloured(font: Any) -> bool:
    return any(part in font.name.lower().replace(" ", "") for part in _COLOUR_FONTS)


@functools.cache
def _signs(path: str) -> frozenset[int]:
    """The signs that a font has, by their numbers; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
