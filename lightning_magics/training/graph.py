"""The graph of a network, for TensorBoard: traced on a copy that has neither weights nor hooks.

The copy's tensors are on torch's device ``meta``, where nothing is computed: the network itself is not called, and a
large one takes no memory and little more time than a small one.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map

_MOST_MODULES = 250  # of a network: tracing takes some milliseconds for each, and no eye follows more
_log = logging.getLogger("pytorch_lightning")  # one of those that speak in the run's log
Example = Callable[[], tuple[tuple[Any, ...], Mapping[str, Any]]]


def draw(writer: Any, network: torch.nn.Module, example: Example, package: str) -> None:
    """Write the graph of a network; what cannot be traced is left out, and the run's log says why.

    Args:
        writer: torch's SummaryWriter.
        network: stays as it is, and so does every random state.
        example: returns inputs of `forward`, by position and by name.
        package: Lightning package of the run.
    """
    modules = sum(1 for _ in network.modules())
    if modules > _MOST_MODULES:
        _log.info("no graph for TensorBoard: the network has %d modules", modules)
        return
    with importlib.import_module(f"{package}.utilities.seed").isolate_rng(), _silence():
        try:
            _draw(writer, network, example, package)
        except Exception as error:  # whatever the user's code does where nothing is computed
            text = " ".join(str(error).split())[:300]
            _log.info("no graph for TensorBoard: %s: %s", type(error).__name__, text)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Within it neither warnings are shown nor what transformers says when torch looks at a model's properties."""
    speaker = logging.getLogger("transformers")
    level = speaker.level
    speaker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        speaker.setLevel(level)


def _draw(writer: Any, network: torch.nn.Module, example: Example, package: str) -> None:
    from torch.utils.tensorboard import _pytorch_graph

    scripting = importlib.import_module(f"{package}.core.module")._jit_is_scripting  # a LightningModule's properties
    inputs, named = tree_map(_on_meta, example())
    arguments = {"example_kwarg_inputs": dict(named)} if named else {"example_inputs": inputs}
    with torch.no_grad(), scripting():
        # What `add_graph` of the writer does, which traces twice more in order to compare.
        traced = torch.jit.trace(_weightless(network), check_trace=False, strict=False, **arguments)  # type: ignore[no-untyped-call]
        graph_definition = _pytorch_graph.graph(traced, inputs)  # type: ignore[no-untyped-call]
    writer._get_file_writer().add_graph(graph_definition)


def _weightless(network: torch.nn.Module) -> torch.nn.Module:
    """A copy in evaluation mode, its tensors without values and its hooks taken off."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = torch.nn.Parameter(_on_meta(parameter.data), parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = _on_meta(buffer)
    copied = copy.deepcopy(network, memo).eval()
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copied


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, torch.Tensor) else value
