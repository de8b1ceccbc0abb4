"""The network of a model: what the last expression of a cell, or an object, is, and how it is made anew.

The class around it is in `model`.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from ...errors import InputError
from ..cell import Cell, CellSource, Hyperparameter
from ..definition import has_base, is_module, uncompiled
from ..evaluation import UNKNOWN, called_class, evaluate_cell
from ..generated import expression, snippet
from ..lookup import Notebook, literal
from ..scopes import names_read, reads
from .inputs import Inputs, inputs_of
from .losses import Task

FORMS = (
    "A model cell takes a LightningModule class, functions with self (training_step, …), "
    "a network as its last expression, or an nn.Module class"
)
_BARE = (ast.Name, ast.Attribute, ast.Subscript)


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        code: makes it, from hyperparameters and the statements of the cell.
        is_transformers: whether it is a transformers model, which has a loss of its own.
        is_causal: whether its logits are compared with the labels that follow.
        evaluates: whether a trainable part of it starts in evaluation mode.
        encodes: whether a part of it is a transformers model.
        task: what a transformers model's own loss is for, where its configuration says so.
        has_loss: whether a transformers model takes labels, and so has a loss of its own.
        parameters: names of its parameters, where it could be made.
        inputs: number of inputs that `forward` cannot do without.
        from_left: whether it classifies texts that begin at the first place.
        generates: whether it writes a text from a text.
        input_kinds: which inputs are numbers to compute with, as far as is known.
        copies: networks of the notebook that hooks read too: by name, what the instance's copy is called.
    """

    code: ast.expr
    is_transformers: bool = False
    is_causal: bool = False
    evaluates: bool = False
    encodes: bool = False
    task: Task | None = None
    has_loss: bool = True
    parameters: tuple[str, ...] = ()
    inputs: int = 1
    from_left: bool = False
    generates: bool = False
    input_kinds: Inputs = field(default_factory=Inputs)
    copies: dict[str, str] = field(default_factory=dict)


def find_network(cell: Cell, source: CellSource | None, notebook: Notebook) -> Network | None:
    """Find what a cell's expression is, by evaluating it once with the default hyperparameters.

    Parameters of a class or function that makes the network become hyperparameters of the cell. Networks of the
    notebook that the cell reads are copied, so that neither this nor training changes them.

    Returns:
        The network, or None beside hooks if the expression is something else.

    Raises:
        InputError: it is no network.
    """
    code = cell.expression
    assert code is not None
    bare = isinstance(code, _BARE)
    read = _networks_read(cell.inner, cell, notebook)
    is_object = bare and not names_read(code) & (read | cell.local_names)  # the notebook's object and nothing else
    if not is_object:
        read |= _networks_read([code], cell, notebook)
    copied = deepcopy({name: notebook.namespace[name] for name in read})
    namespace = {**notebook.namespace, **copied} if read else notebook.namespace
    value = evaluate_cell(cell, source, namespace)
    network = _network_of(value, is_object, cell, source, notebook)
    return _with_copies(network, read, cell, notebook) if network is not None else None


def _network_of(
    value: Any, is_object: bool, cell: Cell, source: CellSource | None, notebook: Notebook
) -> Network | None:
    """Return the network that the value of a cell's expression is or makes; see `find_network`."""
    code = cell.expression
    assert code is not None
    if value is UNKNOWN:
        if cell.hooks and _calls_builtin(code, notebook):
            return None
        return _describe(code, called_class(code, cell, notebook.namespace))
    module = uncompiled(value)
    if is_module(module):
        raise InputError(
            f"the last expression is the LightningModule {getattr(module, '__name__', type(module).__name__)} itself. "
            f"Register a class with %lightning_model NAME, or pass an instance to %lightning_fit"
        )
    if isinstance(value, torch.nn.Module):
        return _describe(expression("deepcopy(CODE)", CODE=code) if is_object else code, type(value), value)
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return _describe(_call_with_parameters(code, value, cell, notebook), value)
    if isinstance(code, _BARE) and callable(value) and not isinstance(value, type):
        return _network_from_function(value, cell, source, notebook)
    if cell.hooks:
        return None
    raise InputError(f"the last expression is of type {type(value).__name__}, which is not a network. {FORMS}")


def _calls_builtin(code: ast.expr, notebook: Notebook) -> bool:
    """Whether an expression calls a function of Python itself, such as print, which makes no network."""
    called = code.func if isinstance(code, ast.Call) else None
    return isinstance(called, ast.Name) and called.id not in notebook.namespace and hasattr(builtins, called.id)


def _networks_read(code: Iterable[ast.AST], cell: Cell, notebook: Notebook) -> set[str]:
    """Return the names of the notebook's networks that code of a cell reads."""
    names = names_read(*code) - cell.local_names
    return {name for name in names if isinstance(notebook.namespace.get(name), torch.nn.Module)}


def _with_copies(network: Network, names: set[str], cell: Cell, notebook: Notebook) -> Network:
    """Let a cell's network hold copies of the notebook's networks of those names; changes the cell.

    They are copied together, so that what they share stays shared.
    """
    if not names:
        return network
    used = notebook.namespace.keys() | cell.local_names
    copies = {name: f"{name}_copy" for name in sorted(names)}
    while used & set(copies.values()):
        copies = {name: f"{copy}_" for name, copy in copies.items()}
    for read in reads(*cell.inner, network.code):
        read.node.id = copies.get(read.node.id, read.node.id)
    old, new = ", ".join(copies), ", ".join(copies.values())
    cell.inner[:0] = snippet(f"{new} = deepcopy(({old}))")
    in_hooks = names_read(*cell.hooks)
    return dataclasses.replace(network, copies={name: copy for name, copy in copies.items() if name in in_hooks})


def _network_from_function(
    function: Callable[..., Any], cell: Cell, source: CellSource | None, notebook: Notebook
) -> Network:
    """Return the network that a function makes; called once if it needs no arguments."""
    assert cell.expression is not None
    code = _call_with_parameters(cell.expression, function, cell, notebook)
    called = dataclasses.replace(cell, hooks=[], expression=code)
    value = evaluate_cell(called, source, notebook.namespace)
    if value is UNKNOWN:
        return _describe(code, None)
    if not isinstance(value, torch.nn.Module) or is_module(uncompiled(value)):
        name = getattr(function, "__name__", "the function")
        raise InputError(
            f"{name} returns a value of type {type(value).__name__}. A model takes a function that returns an nn.Module"
        )
    return _describe(code, type(value), value)


def _call_with_parameters(code: ast.expr, function: Callable[..., Any], cell: Cell, notebook: Notebook) -> ast.Call:
    """Return a call that passes each of a function's parameters; those become hyperparameters."""
    call = ast.Call(code, [], [])
    for item in inspect.signature(function).parameters.values():
        if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD):
            continue
        default = None
        if item.default is not item.empty:
            default = literal(item.default) or notebook.reference(item.default, item.name)
        plain = isinstance(item.annotation, type) and item.annotation.__module__ == "builtins"
        annotation = ast.Name(item.annotation.__name__, ast.Load()) if plain else None
        annotation = None if item.annotation is item.empty else annotation
        cell.hyperparameters.setdefault(item.name, Hyperparameter(item.name, annotation, default))
        value = ast.Name(item.name, ast.Load())
        if item.kind is item.POSITIONAL_ONLY:
            call.args.append(value)
        else:
            call.keywords.append(ast.keyword(item.name, value))
    return call


def _describe(code: ast.expr, cls: type | None, value: torch.nn.Module | None = None) -> Network:
    """Return a network with what the steps need to know of its class."""
    if cls is None:
        return Network(code)
    wrapped = type(_unwrapped(value)) if value is not None else cls
    bases = [base.__name__ for base in wrapped.__mro__ if base.__module__.startswith("transformers.")]
    is_transformers = any(name == "PreTrainedModel" or name.startswith("AutoModel") for name in bases)
    is_causal = is_transformers and wrapped.__name__.endswith(("ForCausalLM", "LMHeadModel"))
    forward = getattr(cls, "forward", None)
    items = list(inspect.signature(forward).parameters.values())[1:] if forward else []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    inputs = sum(item.default is item.empty and item.kind in positional for item in items)
    task = _task(getattr(value, "config", None)) if is_transformers else None
    parts = list(value.modules()) if value is not None else []
    encodes = is_transformers or any(has_base(item, "PreTrainedModel") for item in parts)
    evaluates = any(not part.training and any(item.requires_grad for item in part.parameters()) for part in parts)
    takes = inspect.signature(_unwrapped(value).forward).parameters if value is not None else {}
    return Network(
        code,
        is_transformers,
        is_causal,
        evaluates,
        encodes,
        task,
        has_loss=value is None or "labels" in takes,
        parameters=tuple(name for name, _ in value.named_parameters()) if value is not None else (),
        inputs=max(1, inputs),
        from_left=is_transformers and value is not None and _begins_at_first(wrapped),
        generates=is_transformers
        and wrapped.__name__.endswith("ForConditionalGeneration")
        and bool(getattr(getattr(value, "config", None), "is_encoder_decoder", False)),
        input_kinds=inputs_of(value) if value is not None and not encodes else Inputs(),
    )


def _begins_at_first(cls: type) -> bool:
    """Whether a class of transformers classifies texts that begin at the first place; XLNet's end at the last."""
    names = [base.__name__ for base in cls.__mro__ if base.__module__.startswith("transformers.")]
    return any(name.endswith("ForSequenceClassification") and not name.startswith("XLNet") for name in names)


def _unwrapped(value: Any) -> Any:
    """Return the transformers model that one of PEFT wraps, any other network as it is."""
    if not hasattr(value, "peft_config"):
        return value
    return value.get_base_model() if hasattr(value, "get_base_model") else getattr(value, "base_model", value)


def _task(config: Any) -> Task | None:
    """Return the task of a transformers model's own loss, where its configuration says so."""
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification":
        return "multilabel"
    single = problem is None and getattr(config, "num_labels", None) == 1
    return "regression" if problem == "regression" or single else None
