"""The command that starts a rank, for engines: ``python -m lightning_magics.launch.rank FOLDER``.

What the rank then does is in `rank_process`.

The variables are torchrun's, wherever it runs: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``,
``MASTER_ADDR``, ``MASTER_PORT``, and ``NODE_RANK`` or ``GROUP_RANK``. FOLDER is the run's, which every node sees.
Without ``LOCAL_RANK`` and the rank of the node, each node has consecutive ranks.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from ..runs.folder import RunFolder

PATH = "LIGHTNING_MAGICS_PATH"  # a variable with the kernel's sys.path: see `variables`


def variables(path: Sequence[str]) -> dict[str, str]:
    """Environment variables that pass a kernel's ``sys.path`` to the processes of a run.

    This package comes first, the whole path later.
    """
    environment = {PATH: os.pathsep.join(path)}
    parent = str(Path(__file__).parents[2])
    if parent not in sysconfig.get_paths().values():
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [parent, os.environ.get("PYTHONPATH", "")]))
    return environment


def main() -> None:
    """Be one rank of the run in the folder that is named."""
    if path := os.environ.pop(PATH, ""):
        sys.path[:] = path.split(os.pathsep)
    from . import rank_process  # imports torch, which the rest of the package does not

    rank, ranks, each = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if "GROUP_RANK" not in os.environ:
        os.environ.setdefault("NODE_RANK", str(rank // each))
    local_rank = int(os.environ.get("LOCAL_RANK", rank % each))
    rank_process.main(RunFolder(sys.argv[1]), rank, ranks, local_rank)


if __name__ == "__main__":
    main()
