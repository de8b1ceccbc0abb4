"""Which inputs of a network are numbers to compute with, and which are indices, such as token ids, or masks.

Its forward is followed with `torch.fx`, which computes nothing. Where that cannot be told, nothing is assumed.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

_MOST_MODULES = 2000
_RESHAPING_METHODS = {"contiguous", "expand", "flatten", "permute", "relu", "repeat", "reshape", "squeeze"}
_RESHAPING_METHODS |= {"transpose", "view", "unflatten", "unsqueeze", "view_as", "clone", "detach"}
_RESHAPING_FUNCTIONS = {getattr(torch, name) for name in _RESHAPING_METHODS if hasattr(torch, name)}
_RESHAPING_FUNCTIONS |= {F.dropout, F.relu, operator.getitem, torch.cat, torch.stack}
_SHAPE_METHODS = {"dim", "numel", "size"}  # of a tensor, without a look at its values
# Of these layers, the first argument is a number: others may be masks, for which bool and floats differ in meaning.
_COMPUTE_LAYERS = (
    torch.nn.Linear,
    torch.nn.modules.conv._ConvNd,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    torch.nn.modules.rnn.RNNBase,
    torch.nn.modules.rnn.RNNCellBase,
)
_PASSTHROUGH_LAYERS = (
    torch.nn.Flatten,
    torch.nn.Unflatten,
    torch.nn.Identity,
    torch.nn.ReLU,
    torch.nn.modules.dropout._DropoutNd,
    torch.nn.Upsample,
    torch.nn.modules.padding._ConstantPadNd,
    torch.nn.modules.pooling._MaxPoolNd,
    torch.nn.modules.pooling._AvgPoolNd,
    torch.nn.modules.pooling._AdaptiveMaxPoolNd,
    torch.nn.modules.pooling._AdaptiveAvgPoolNd,
)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a network, each by its position and by its name.

    Attributes:
        required: those that it cannot do without. Whether others are numbers too is unknown; nor is it known of
            these once another is passed, since forward may do something else then.
        numbers: those of them that it only computes with.
    """

    required: tuple[int | str, ...] = ()
    numbers: tuple[int | str, ...] = ()


def inputs_of(network: torch.nn.Module) -> Inputs:
    """Return which inputs of a network are numbers: those that first reach layers that compute with them.

    Args:
        network: stays as it is.
    """
    modules = list(network.modules())
    if len(modules) > _MOST_MODULES or any(isinstance(item, torch.jit.ScriptModule) for item in modules):
        return Inputs()
    try:
        # Forward may set attributes, count in buffers and change weights in place.
        root = copy.deepcopy(network, {id(item): _without_values(item) for item in network.parameters()})
        if type(network).__module__.startswith("torch.nn."):
            root = torch.nn.Sequential(root)  # else its own forward would be followed
        parameters = list(inspect.signature(root.forward).parameters.values())
        defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
        with contextlib.redirect_stdout(io.StringIO()):
            graph = fx.Tracer().trace(root, defaults)
        # The placeholder of one that has a default has an argument.
        inputs = {node.target: node for node in graph.nodes if node.op == "placeholder" and not node.args}
        places = {name: _places(name, parameters) for name in inputs if name in {item.name for item in parameters}}
        numbers = [place for name in places for place in places[name] if _first_uses(inputs[name], root) == {True}]
        return Inputs(tuple(place for name in places for place in places[name]), tuple(numbers))
    except Exception:  # whatever the user's code does with what is no tensor
        return Inputs()


def _without_values(parameter: Any) -> Any:
    """A parameter of the same type and shape that has no values to change."""
    if torch.nn.parameter.is_lazy(parameter):
        lazy: Any = torch.nn.UninitializedParameter
        return lazy(device="meta", dtype=parameter.dtype)
    values = torch.empty_like(parameter, device="meta")
    return torch.nn.Parameter(values, requires_grad=parameter.requires_grad)


def _places(name: str, parameters: list[inspect.Parameter]) -> tuple[int | str, ...]:
    """The position and the name of an input, as far as it can be passed by them."""
    position = next(number for number, item in enumerate(parameters) if item.name == name)
    kind = parameters[position].kind
    places: tuple[int | str, ...] = () if kind is inspect.Parameter.KEYWORD_ONLY else (position,)
    return places if kind is inspect.Parameter.POSITIONAL_ONLY else (*places, name)


def _first_uses(node: fx.Node, root: torch.nn.Module) -> set[bool]:
    """What layers a value goes to: True is one that computes with it, False another, or anything that is not known."""
    uses: set[bool] = set()
    for user in node.users:
        if user.op == "call_module":
            layer = root.get_submodule(str(user.target))
            kinds = {item.is_floating_point() for item in layer.parameters()}
            if not isinstance(layer, (*_COMPUTE_LAYERS, *_PASSTHROUGH_LAYERS)) or not _is_first(node, user):
                uses.add(False)
            elif kinds:
                uses.add(kinds == {True})
            else:
                uses |= _first_uses(user, root)
        elif _is_reshaping(user, node):
            uses |= _first_uses(user, root)
        elif not _reads_shape(user):
            uses.add(False)
    return uses


def _is_first(node: fx.Node, user: fx.Node) -> bool:
    """Whether a value is the first argument, and no part of another."""
    others: list[fx.Node] = []
    fx.node.map_arg((user.args[1:], user.kwargs), others.append)
    return bool(user.args) and user.args[0] is node and node not in others


def _is_reshaping(user: fx.Node, node: fx.Node) -> bool:
    """Whether an operation gives the values of a tensor in another shape, or of ReLU."""
    if user.op == "call_method":
        return user.target in _RESHAPING_METHODS and _is_first(node, user)
    joins = user.target in (torch.cat, torch.stack) and bool(user.args) and isinstance(user.args[0], list | tuple)
    return user.op == "call_function" and user.target in _RESHAPING_FUNCTIONS and (joins or _is_first(node, user))


def _reads_shape(user: fx.Node) -> bool:
    """Whether an operation reads no more of a tensor than its shape."""
    if user.op == "call_function":
        return user.target is getattr and user.args[1] in ("shape", "ndim", "device")
    return user.op == "call_method" and user.target in _SHAPE_METHODS
