"""The IPython shell that runs this code, if there is one; IPython is not imported to find that out."""

from __future__ import annotations

import sys
from typing import Any


def running_shell() -> Any:
    """The shell, or None in a plain script."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def running_kernel() -> Any:
    """The kernel of the shell, or None in a terminal or a script."""
    return getattr(running_shell(), "kernel", None)


def cell_number() -> int | None:
    """Number of the cell that runs now, or None outside IPython."""
    shell = running_shell()
    return None if shell is None else int(shell.execution_count)
