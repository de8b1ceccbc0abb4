"""What a process has besides a job that decides on its numbers: random state and torch's settings."""

from __future__ import annotations

import os
import random
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Surroundings:
    """Taken in the kernel, applied in each rank: one rank then gives the numbers of the kernel itself.

    Attributes:
        threads: of torch, shared by the ranks.
        seed: of ``--seed``, or None.
    """

    threads: int
    seed: int | None
    random_state: Any
    numpy_state: Any
    torch_state: torch.Tensor
    default_dtype: torch.dtype
    matmul_precision: str
    deterministic: tuple[bool, bool]
    cudnn: tuple[bool, bool, bool]
    warning_filters: list[Any]

    @classmethod
    def taken(cls, seed: int | None, anew: str = "") -> Surroundings:
        """Take those of this process; nothing is changed.

        Args:
            seed: of ``--seed``, or None.
            anew: without a seed, a text that makes other random numbers of this process's; empty for its own.
        """
        import numpy as np

        backend: Any = torch.backends.cudnn
        random_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        if anew and seed is None:
            number = zlib.crc32(anew.encode(), zlib.crc32(torch_state.numpy().tobytes()))
            random_state, numpy_state = random.Random(number).getstate(), np.random.RandomState(number).get_state()
            torch_state = torch.Generator().manual_seed(number).get_state()
        return cls(
            threads=torch.get_num_threads(),
            seed=seed,
            random_state=random_state,
            numpy_state=numpy_state,
            torch_state=torch_state,
            default_dtype=torch.get_default_dtype(),
            matmul_precision=torch.get_float32_matmul_precision(),
            deterministic=(
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            cudnn=(backend.benchmark, backend.deterministic, backend.allow_tf32),
            warning_filters=[item for item in warnings.filters if item[2].__module__ == "builtins"],
        )

    def settings_since(self, before: Surroundings) -> list[str]:
        """Settings of torch that are others than before, with their values."""
        names = ("threads", "default_dtype", "matmul_precision", "deterministic", "cudnn")
        found = {name: (getattr(before, name), getattr(self, name)) for name in names}
        return [f"{name.replace('_', ' ')}: {one} → {other}" for name, (one, other) in found.items() if one != other]

    def apply(self, ranks: int, threads: int) -> None:
        """Make them those of this process, one of several ranks, which takes some of torch's threads."""
        import numpy as np

        torch.set_num_threads(max(1, threads))
        torch.set_default_dtype(self.default_dtype)
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.use_deterministic_algorithms(self.deterministic[0], warn_only=self.deterministic[1])
        backend: Any = torch.backends.cudnn
        backend.benchmark, backend.deterministic, backend.allow_tf32 = self.cudnn
        if self.seed is not None:
            torch.manual_seed(self.seed)  # of every device
        if ranks == 1:
            os.environ.pop("PL_GLOBAL_SEED", None)  # under DDP, Lightning would go back to it once the model is made
        random.setstate(self.random_state)
        np.random.set_state(self.numpy_state)
        torch.set_rng_state(self.torch_state)
        warnings.filters[:] = self.warning_filters  # type: ignore[index]
