"""Whether a network computes with its inputs or takes them for indices, such as token ids: by what they reach first.

Its forward is followed with `torch.fx`, which computes nothing. Where that cannot be told, nothing is assumed.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import operator

import torch
from torch import fx
from torch.nn import functional as F

_MOST_MODULES = 2000
_MOVING = {"contiguous", "expand", "flatten", "permute", "relu", "repeat", "reshape", "squeeze", "transpose", "view"}
_MOVING |= {"unflatten", "unsqueeze", "view_as", "clone", "detach"}
_MOVES = {getattr(torch, name) for name in _MOVING if hasattr(torch, name)}
_MOVES |= {F.dropout, F.relu, operator.getitem, torch.cat, torch.stack}
_ASKING = {"dim", "numel", "size"}  # of a tensor, without a look at its values


def are_numbers(network: torch.nn.Module) -> bool:
    """Whether each input of a network is a number to compute with: the first layer that it reaches takes floats.

    Args:
        network: stays as it is.
    """
    modules = list(network.modules())
    if len(modules) > _MOST_MODULES or any(isinstance(item, torch.jit.ScriptModule) for item in modules):
        return False
    tensors = {id(item): item for item in (*network.parameters(), *network.buffers())}
    try:
        root = copy.deepcopy(network, tensors)  # forward may set attributes
        if type(network).__module__.startswith("torch.nn."):
            root = torch.nn.Sequential(root)  # else its own forward would be followed
        parameters = inspect.signature(root.forward).parameters.values()
        defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
        with contextlib.redirect_stdout(io.StringIO()):
            graph = fx.Tracer().trace(root, defaults)
        inputs = [node for node in graph.nodes if node.op == "placeholder" and not node.args]  # which has no default
        return bool(inputs) and all(_are_floats(node, root) for node in inputs)
    except Exception:  # whatever the user's code does with what is no tensor
        return False


def _are_floats(node: fx.Node, root: torch.nn.Module) -> bool:
    """Whether a value goes to layers that take floats, and nowhere else."""
    return _first_uses(node, root) == {True}


def _first_uses(node: fx.Node, root: torch.nn.Module) -> set[bool]:
    """What layers a value goes to: True is one that takes floats, False another, or anything that is not known."""
    found: set[bool] = set()
    for user in node.users:
        if user.op == "call_module":
            layer = root.get_submodule(str(user.target))
            kinds = [item.is_floating_point() for item in layer.parameters()]
            known = type(layer).__module__.startswith("torch.nn.")
            if known and not kinds:
                found |= _first_uses(user, root)
            else:
                found.add(known and all(kinds) and not isinstance(layer, torch.nn.Embedding | torch.nn.EmbeddingBag))
        elif _moves(user, node):
            found |= _first_uses(user, root)
        elif not _asks(user):
            found.add(False)
    return found


def _moves(user: fx.Node, node: fx.Node) -> bool:
    """Whether an operation gives the values of a tensor in another shape, or of ReLU."""
    first = user.args[0] if user.args else None
    if user.op == "call_method":
        return user.target in _MOVING and first is node
    return user.op == "call_function" and user.target in _MOVES and (first is node or isinstance(first, list | tuple))


def _asks(user: fx.Node) -> bool:
    """Whether an operation reads no more of a tensor than its shape."""
    if user.op == "call_function":
        return user.target is getattr and user.args[1] in ("shape", "ndim", "device")
    return user.op == "call_method" and user.target in _ASKING
