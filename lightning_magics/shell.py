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


def show(value: Any) -> None:
    """Show a value as a cell shows its last one; outside IPython its text."""
    if running_shell() is None:
        print(value)  # noqa: T201 -- a script's output
        return
    from IPython.display import display

    display(value)  # type: ignore[no-untyped-call]


def someone_waits() -> bool:
    """Whether a person sits before the notebook or terminal; nbclient, papermill and scripts have none."""
    kernel = running_kernel()
    if kernel is not None:
        return takes_input(kernel)
    return running_shell() is not None and sys.stdin is not None and sys.stdin.isatty()


def takes_input(kernel: Any) -> bool:
    """Whether the front end of a kernel lets code ask for input: nbclient, papermill and jupyter execute do not.

    ipykernel keeps this part of the request that it executes under a private name. Its public `get_parent` fails in
    threads of ipykernel 7.0.
    """
    return bool(getattr(kernel, "_allow_stdin", True))


def cell_number() -> int | None:
    """Number of the cell that runs now, or None outside IPython; the shell's own counter may be one ahead."""
    shell = running_shell()
    return None if shell is None else len(shell.user_ns.get("In", ())) - 1
