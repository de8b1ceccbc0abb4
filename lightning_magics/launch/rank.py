"""What an engine starts for each rank of a run: ``python -m lightning_magics.launch.rank FOLDER``.

The variables are torchrun's, wherever it runs: ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``,
``MASTER_ADDR``, ``MASTER_PORT``, and ``NODE_RANK`` or ``GROUP_RANK``. FOLDER is the run's, which every node sees.
"""

from __future__ import annotations

import os
import sys

from ..runs.folder import RunFolder

PATH = "LIGHTNING_MAGICS_PATH"  # a variable with the kernel's sys.path, where an engine gives it


def main() -> None:
    """Be one rank of the run in the folder that is named."""
    if path := os.environ.pop(PATH, ""):
        sys.path[:] = path.split(os.pathsep)
    from . import worker  # imports torch, which the rest of the package does not

    rank, ranks, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    worker.main(RunFolder(sys.argv[1]), rank, ranks, local_rank)


if __name__ == "__main__":
    main()
