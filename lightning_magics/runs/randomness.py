"""The random state of a process: kept while something else draws, written for a run's folder, taken up elsewhere."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

_SEED_VARIABLES = (
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
)  # what its seed_everything leaves for ranks and DataLoader workers


@dataclass(frozen=True)
class RandomState:
    """The random states of Python, NumPy and torch; of GPUs only where they are in use.

    Attributes:
        environment: what Lightning's ``seed_everything`` has set; None for a variable that is not set.
    """

    python: Any
    numpy: Any
    cpu: torch.Tensor
    cuda: list[torch.Tensor]
    environment: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def capture(cls) -> RandomState:
        """Take the present one."""
        # Asking for the device would start CUDA in a notebook that has not.
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        environment = {name: os.environ.get(name) for name in _SEED_VARIABLES}
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), cuda, environment)

    @classmethod
    def seeded(cls, number: int) -> RandomState:
        """Make one of a number; nothing is changed."""
        numpy = np.random.RandomState(number).get_state(legacy=False)
        return cls(random.Random(number).getstate(), numpy, torch.Generator().manual_seed(number).get_state(), [])

    def restore(self) -> None:
        """Go back to it."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for device, state in enumerate(self.cuda[: torch.cuda.device_count()] if self.cuda else ()):
            torch.cuda.set_rng_state(state, device)
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def take_up(self) -> None:
        """Let this process go on from the state of another one.

        A GPU that was not in use there has drawn nothing since torch was seeded.
        """
        self.restore()
        if not self.cuda and torch.cuda.is_available():
            torch.cuda.manual_seed_all(torch.initial_seed())

    @property
    def is_present(self) -> bool:
        """Whether nothing was drawn on the CPU since it was taken."""
        now = RandomState.capture()
        return self.python == now.python and _plain(self.numpy) == _plain(now.numpy) and torch.equal(self.cpu, now.cpu)

    @property
    def text(self) -> str:
        """It as JSON."""
        values = {
            "python": self.python,
            "numpy": _plain(self.numpy),
            "cpu": self.cpu.numpy().tobytes().hex(),
            "cuda": [state.numpy().tobytes().hex() for state in self.cuda],
            "environment": self.environment,
        }
        return json.dumps(values) + "\n"

    @classmethod
    def of_text(cls, text: str) -> RandomState:
        """Read what `text` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = json.loads(text)
            version, numbers, gauss = values["python"]
            state = random.Random()
            state.setstate((version, tuple(numbers), gauss))
            cpu, *cuda = (torch.tensor(list(bytes.fromhex(item))).byte() for item in (values["cpu"], *values["cuda"]))
            torch.Generator().set_state(cpu)
            environment = {name: values["environment"][name] for name in _SEED_VARIABLES}
            if not all(value is None or str(value).isdecimal() for value in environment.values()):
                raise ValueError("environment")  # noqa: TRY301 -- joins the other causes below
            np.random.RandomState().set_state(values["numpy"])
            return cls(state.getstate(), values["numpy"], cpu, cuda, environment)
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
            raise ValueError(f"it is not a random state: {type(error).__name__}: {error}") from error


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Leave the random states of Python, NumPy and torch as if nothing had run."""
    before = RandomState.capture()
    try:
        yield
    finally:
        before.restore()


def _plain(value: Any) -> Any:
    """NumPy's state without arrays."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
