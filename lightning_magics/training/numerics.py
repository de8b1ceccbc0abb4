"""What a process has besides a job that decides on its numbers: random state and torch's settings."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..runs.randomness import RandomState


@dataclass(frozen=True)
class NumericState:
    """Taken in the kernel, applied in each rank: one rank then gives the numbers of the kernel itself.

    Attributes:
        threads: of torch, shared by the ranks.
        random: the random state.
    """

    threads: int
    random: RandomState
    default_dtype: torch.dtype
    matmul_precision: str
    deterministic: tuple[bool, bool]
    cudnn: tuple[bool, bool, bool]
    warning_filters: list[Any]

    @classmethod
    def capture(cls, salt: str = "") -> NumericState:
        """Take those of this process; nothing is changed.

        Args:
            salt: a text that makes other random numbers of this process's; empty for its own.
        """
        backend: Any = torch.backends.cudnn
        state = RandomState.capture()
        if salt:
            state = RandomState.seeded(zlib.crc32(salt.encode(), zlib.crc32(state.cpu.numpy().tobytes())))
        return cls(
            threads=torch.get_num_threads(),
            random=state,
            default_dtype=torch.get_default_dtype(),
            matmul_precision=torch.get_float32_matmul_precision(),
            deterministic=(
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            cudnn=(backend.benchmark, backend.deterministic, backend.allow_tf32),
            warning_filters=[item for item in warnings.filters if item[2].__module__ == "builtins"],
        )

    def settings_since(self, before: NumericState) -> list[str]:
        """Settings of torch that are others than before, with their values."""
        names = ("threads", "default_dtype", "matmul_precision", "deterministic", "cudnn")
        settings = {name: (getattr(before, name), getattr(self, name)) for name in names}
        return [f"{name.replace('_', ' ')}: {old} → {new}" for name, (old, new) in settings.items() if old != new]

    def apply(self, ranks: int, threads: int) -> None:
        """Make them those of this process, one of several ranks, which takes some of torch's threads."""
        torch.set_num_threads(max(1, threads))
        torch.set_default_dtype(self.default_dtype)
        torch.set_float32_matmul_precision(self.matmul_precision)
        torch.use_deterministic_algorithms(self.deterministic[0], warn_only=self.deterministic[1])
        backend: Any = torch.backends.cudnn
        backend.benchmark, backend.deterministic, backend.allow_tf32 = self.cudnn
        self.random.take_up()
        if ranks == 1:
            os.environ.pop("PL_GLOBAL_SEED", None)  # under DDP, Lightning would go back to it once the model is made
        warnings.filters[:] = self.warning_filters  # type: ignore[index]


@contextlib.contextmanager
def seeded(package: str, seed: int | None) -> Iterator[None]:
    """Seed everything within it, as Lightning does, and leave the notebook's own random state as it was.

    Args:
        package: Lightning package.
        seed: None changes nothing.
    """
    if seed is None:
        yield
        return
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    lightning = importlib.import_module(package)
    raised: BaseException | None = None
    with importlib.import_module(f"{package}.utilities.seed").isolate_rng():
        try:
            lightning.seed_everything(seed, workers=True, verbose=False)
            yield
        except BaseException as error:  # isolate_rng restores nothing when one passes through it
            raised = error
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
    if raised is not None:
        raise raised
