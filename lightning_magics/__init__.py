"""IPython magics that turn notebook cells into a PyTorch LightningModule and a training run.

``%load_ext lightning_magics`` adds the magics; the functions here do the same from Python. Heavy packages are
imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .commands.api import (
        attach,
        board,
        define_data,
        define_model,
        export,
        fit,
        list_runs,
        load,
        predict,
        rerun,
        source,
        stop,
        test,
        validate,
    )
    from .launch.run import Run

__all__ = [
    "Run",
    "attach",
    "board",
    "define_data",
    "define_model",
    "export",
    "fit",
    "list_runs",
    "load",
    "predict",
    "rerun",
    "source",
    "stop",
    "test",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".launch.run" if name == "Run" else ".commands.api", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def load_ipython_extension(shell: Any) -> None:
    """Register the magics and their completion; ``%load_ext lightning_magics``."""
    from .magics import LightningMagics
    from .options.completion import install

    magics = LightningMagics(shell)
    shell.register_magics(magics)
    install(shell, lambda: magics.session)


def unload_ipython_extension(shell: Any) -> None:
    """Remove everything that loading added; ``%unload_ext lightning_magics``."""
    from .options.completion import uninstall

    uninstall(shell)
    magics = shell.magics_manager.registry.pop("LightningMagics", None)
    if magics is None:
        return
    magics.unload()
    for kind, table in shell.magics_manager.magics.items():
        for name in magics.magics[kind]:
            table.pop(name, None)
    shell.configurables.remove(magics)
