"""What the text or object given to an option means: a name of torch, or code of the notebook.

What is done with it is in `losses`, `metrics` and `optimizers`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
import torchmetrics

from ..errors import InputError, did_you_mean
from ..options.tokens import evaluate
from .cell import use_attributes
from .generated import method, strip_positions
from .scopes import reads, replace_names

# Where the objects of the libraries are looked up by their own name, nearest first.
_MODULES = {
    "torch.nn.functional": torch.nn.functional,
    "torch.optim": torch.optim,
    "torch.optim.lr_scheduler": torch.optim.lr_scheduler,
    "torch.nn": torch.nn,
    "torch": torch,
    "torchmetrics": torchmetrics,
    "torchmetrics.classification": torchmetrics.classification,
}


@dataclass(frozen=True)
class OptionValue:
    """What was given to an option.

    Attributes:
        text: how it is shown in messages.
        code: expression that gives `value` when evaluated in the notebook; of a call, that of the function.
        value: what it is; of a call, the function.
        call: the call, where a call was given.
    """

    text: str
    code: ast.expr
    value: Any
    call: ast.Call | None = None


@dataclass(frozen=True)
class Library:
    """What an option knows without the notebook.

    Attributes:
        names: objects by the names of the library.
        short: objects by other names; the notebook's come before these.
        usable: whether an object of the notebook is of use to the option at all.
    """

    names: Mapping[str, Any]
    short: Mapping[str, Any] = field(default_factory=dict)
    usable: Callable[[Any], bool] = callable


@dataclass(frozen=True)
class Notebook:
    """The namespace that names are looked up in.

    Attributes:
        namespace: the notebook's globals; an object without a name gets one here.
        hyperparameters: default values that expressions may use too.
        owner: name of what is defined.
        instance_names: what the cell makes anew for every instance, which options cannot read.
        aliases: objects without a name that got one, by that name.
        local_names: variables of the function that calls the magic; options may use them too.
    """

    namespace: dict[str, Any]
    hyperparameters: Mapping[str, Any]
    owner: str
    instance_names: frozenset[str] = frozenset()
    aliases: dict[str, Any] = field(default_factory=dict)
    local_names: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scope(self) -> Mapping[str, Any]:
        """What names mean where the magic is called."""
        return {**self.namespace, **self.local_names}

    def evaluate(self, text: str, option: str) -> Any:
        """Evaluate an expression of the notebook; InputError if that fails."""
        return evaluate(text, {**self.scope, **self.hyperparameters}, option)

    def without_locals(self, tree: ast.expr, besides: ast.Name | None = None) -> ast.expr:
        """Return an option's code as the notebook can run it later, when the function that called has returned.

        Args:
            tree: the code; its local variables become their values, or names of the notebook that hold these.
            besides: a name that is not one of them.
        """
        places = [read.node for read in reads(tree) if read.node is not besides and read.node.id in self.local_names]
        places = [node for node in places if node.id not in self.hyperparameters]
        values = {name: self.local_names[name] for name in {node.id for node in places}}
        return replace_names(
            tree, places, {name: literal(value) or self.reference(value, name) for name, value in values.items()}
        )

    def resolve(self, option: str, value: Any, library: Library, example: str) -> OptionValue:
        """Find what was given to an option.

        Args:
            option: such as ``--optimizer``.
            value: a name, a call such as ``SGD(momentum=0.9)``, any other expression, or an object.
            library: what is known without the notebook.
            example: what to type, for the message.

        Raises:
            InputError: nothing has that name, or the expression cannot be evaluated.
        """
        if not isinstance(value, str):
            return OptionValue(getattr(value, "__name__", type(value).__name__), self.reference(value, option), value)
        tree = parse_expression(option, value, example)
        function, call = _split_call(tree)
        if isinstance(function, ast.Name):
            if function.id in self.instance_names and function.id not in library.names:
                raise InputError(
                    f"{option} {value}: the cell creates its own {function.id!r} for each instance. "
                    f"Define it in another cell"
                )
            library_value = self.library_object(function.id, library)
            if library_value is not None:
                _, call = _split_call(self.without_locals(tree, besides=function))
                return OptionValue(value, self.reference(library_value, option), library_value, call)
            if function.id not in self.scope and function.id not in self.hyperparameters:
                usable = [name for name, item in self.scope.items() if library.usable(item)]
                near = did_you_mean(function.id, [*library.names, *library.short, *usable])
                raise InputError(
                    f"{option} {value}: neither torch nor the notebook has {function.id!r}.{near} Type {example}"
                )
        tree = self.without_locals(tree)
        function, call = _split_call(tree)
        function_value = self.evaluate(ast.unparse(function), option)
        if function_value is functools.partial:  # makes what is called, rather than being called with more
            return OptionValue(value, tree, self.evaluate(ast.unparse(tree), option))
        return OptionValue(value, function, function_value, call)

    def on_instance(self, code: ast.expr) -> ast.expr:
        """Return an option's code for a method: hyperparameters that it reads are attributes of `self` there."""
        function = method("def option(self):\n    return CODE", CODE=deepcopy(code))
        use_attributes(function, {name: f"self.hparams.{name}" for name in self.hyperparameters})
        statement = function.body[0]
        assert isinstance(statement, ast.Return)
        assert statement.value is not None
        return statement.value

    def library_object(self, name: str, library: Library) -> Any:
        """Return the library's object of a name, None where the notebook's own is meant.

        A name as the library spells it comes first, then the notebook's, then other spellings and short names.
        """
        if name in library.names:
            return library.names[name]
        if library.usable(self.scope.get(name)):
            return None
        spelled = {_plain(spelling): value for spelling, value in {**library.names, **library.short}.items()}
        return spelled.get(_plain(name))

    def reference(self, value: Any, role: str) -> ast.expr:
        """Return an expression that gives an object in the notebook, where it gets a name if it has none."""
        name = getattr(value, "__name__", "")
        for prefix, module in _MODULES.items():
            if name and getattr(module, name, None) is value:
                return parse_expression(role, f"{prefix}.{name}", "")
        of_transformers = name and getattr(value, "__module__", "").startswith("transformers.")
        if of_transformers and getattr(sys.modules["transformers"], name, None) is value:
            return parse_expression(role, f"transformers.{name}", "")
        for global_name, candidate in self.namespace.items():
            if candidate is value and not global_name.startswith("_"):
                return ast.Name(global_name, ast.Load())
        base = f"_{self.owner}_{role.strip('-').replace(' ', '_')}"
        numbered = (base if number == 1 else f"{base}_{number}" for number in itertools.count(1))
        # Names of an earlier run of the definition are used again, so that they do not pile up.
        alias = next(name for name in numbered if self.aliases.get(name, value) is value)
        self.namespace[alias] = self.aliases[alias] = value
        return ast.Name(alias, ast.Load())


def _split_call(tree: ast.expr) -> tuple[ast.expr, ast.Call | None]:
    """The function of a call and the call; of any other expression itself."""
    return (tree.func, tree) if isinstance(tree, ast.Call) else (tree, None)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def parse_expression(option: str, text: str, example: str) -> ast.expr:
    """Parse an expression typed as an option; InputError if it is none. A dashed name is read as underscored."""
    if text.replace("-", "_").isidentifier():
        text = text.replace("-", "_")
    try:
        return strip_positions(ast.parse(text.strip(), mode="eval")).body
    except SyntaxError as error:
        raise InputError(f"{option} {text!r} is not a Python expression: {error.msg}. Type {example}") from None


def literal(value: Any) -> ast.expr | None:
    """Return the code of a plain value (numbers, text, None, and lists, tuples and dicts of them), else None."""
    try:
        tree = strip_positions(ast.parse(repr(value), mode="eval")).body
        is_same = ast.literal_eval(tree) == value
    except (SyntaxError, ValueError, TypeError):
        return None
    return tree if is_same is True else None


def missing_arguments(function: Callable[..., Any], call: ast.Call | None, passed: int) -> list[str]:
    """Return the parameters that a call would lack, beyond `passed` positional ones that generated code fills."""
    missing = []
    for position, item in enumerate(signature(function)):
        by_position = position < passed + len(call.args if call else [])
        if (
            item.default is item.empty
            and item.kind not in _STARS
            and not by_position
            and item.name not in keywords(call)
        ):
            missing.append(item.name)
    return missing


_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def accepts(function: Callable[..., Any], name: str) -> bool:
    """Whether a function takes an argument of that name."""
    return any(item.name == name or item.kind is item.VAR_KEYWORD for item in signature(function))


def signature(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function or a class; those of one that tells none are any."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [inspect.Parameter("args", _STARS[0]), inspect.Parameter("kwargs", _STARS[1])]


def keywords(call: ast.Call | None) -> dict[str, ast.expr]:
    """Return the keyword arguments of a call."""
    return {item.arg: item.value for item in call.keywords if item.arg} if call else {}


def check_keywords(option_value: OptionValue, option: str) -> None:
    """Raise InputError for a keyword that the called function does not take."""
    for name in keywords(option_value.call):
        if not accepts(option_value.value, name):
            known = [item.name for item in signature(option_value.value)]
            raise InputError(
                f"{option} {option_value.text}: there is no argument {name!r}.{did_you_mean(name, known)} "
                f"It takes {', '.join(known)}"
            )
