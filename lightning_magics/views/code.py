"""The code of a definition, as a notebook or a terminal shows it."""

from __future__ import annotations

import sys
from typing import Any

from ..shell import running_kernel
from . import report


class Code(str):
    """Python code, shown highlighted: by the front end's own colours in a notebook, in a terminal by Pygments."""

    def _repr_html_(self) -> str:
        return report.html_code(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from pygments import highlight
        from pygments.formatters import TerminalFormatter
        from pygments.lexers import PythonLexer

        in_terminal = running_kernel() is None and sys.stdout.isatty()
        printer.text(highlight(self, PythonLexer(), TerminalFormatter()) if in_terminal else str(self))
