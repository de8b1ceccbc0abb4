"""The arguments of Lightning's Trainer as options: names, types, defaults and choices.

They are read from the source of the installed Lightning, because importing it takes seconds. Whether a value
fits is in `trainer_values`, which has the class itself.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import MissingPackage

# Words that Lightning keeps in registries or enums, which only importing it can list; offered by completion.
KNOWN_WORDS = {
    "accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "devices": ("auto",),
    "strategy": ("auto", "ddp", "ddp_find_unused_parameters_true", "fsdp", "deepspeed"),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
    "gradient_clip_algorithm": ("norm", "value"),
}


@dataclass(frozen=True)
class TrainerOption:
    """One argument of Trainer.

    Attributes:
        name: the argument's name.
        annotation: its type as text, such as ``int | None``.
        types: names of the types in it, such as ``{"int", "None"}``.
        default: its default as text.
        choices: words that it takes, as far as they are known.
        help: first sentence of what Lightning's documentation says.
    """

    name: str
    annotation: str
    types: frozenset[str]
    default: str
    choices: tuple[str, ...]
    help: str

    @property
    def flag(self) -> bool:
        """Whether the option alone means True."""
        return "bool" in self.types

    def takes(self, token: str) -> bool:
        """Whether a token that follows the bare flag reads as its value."""
        if token.lower() in ("true", "false", "none") or token in self.choices:
            return True
        kinds: list[type[int] | type[float]] = [kind for kind in (int, float) if kind.__name__ in self.types]
        return any(_converts(kind, token) for kind in kinds)


def _converts(kind: type[int] | type[float], token: str) -> bool:
    try:
        kind(token)
    except ValueError:
        return False
    return True


@functools.cache
def trainer_options(
    packages: tuple[str, ...] = ("pytorch_lightning", "lightning"),
) -> Mapping[str, TrainerOption]:
    """Return the arguments of the Trainer of the first of the packages that is installed, importing none.

    Raises:
        MissingPackage: none of them is installed.
    """
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            inner = "lightning.pytorch" if package == "lightning" else package
            return types.MappingProxyType(_read_trainer(f"{inner}.trainer.trainer"))
    raise MissingPackage("pytorch_lightning", "Training", "pytorch-lightning")


def _read_trainer(module: str) -> dict[str, TrainerOption]:
    tree = _module_tree(module)
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer")
    init = next(node for node in trainer.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    helps = _argument_helps(ast.get_docstring(init) or "")
    options = {}
    for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        members = _union_members(arg.annotation, module) if arg.annotation else []
        shown = {ast.unparse(member): _type_words(member) for member in members}
        words = [word for text, parts in shown.items() if text.startswith("Literal[") for word in parts]
        options[arg.arg] = TrainerOption(
            name=arg.arg,
            annotation=" | ".join(dict.fromkeys(part for parts in shown.values() for part in parts)),
            types=frozenset(shown),
            default=ast.unparse(default) if default else "",
            choices=tuple(dict.fromkeys([*words, *KNOWN_WORDS.get(arg.arg, ())])),
            help=helps.get(arg.arg, ""),
        )
    return options


@functools.cache
def _module_tree(module: str) -> ast.Module:
    """Parse a module's source, found without importing its packages."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        path = Path(place, *rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])


def _union_members(annotation: ast.expr, module: str) -> list[ast.expr]:
    """Return the parts of a union, however it is written, following constants to where they are defined."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Union", "Optional"):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        parts = [part for item in inner for part in _union_members(item, module)]
        return [*parts, ast.Constant(None)] if ast.unparse(annotation.value) == "Optional" else parts
    if isinstance(annotation, ast.BinOp):
        return [*_union_members(annotation.left, module), *_union_members(annotation.right, module)]
    # Only constants hold unions: following every class would read all of Lightning.
    if isinstance(annotation, ast.Name) and annotation.id.isupper():
        return _definition(annotation.id, module) or [annotation]
    return [annotation]


def _definition(name: str, module: str) -> list[ast.expr]:
    """Return the parts of the union that a constant of a module, or one it imports, stands for."""
    for node in _module_tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _union_members(node.value, module)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(alias.name, node.module)
    return []


def _type_words(member: ast.expr) -> list[str]:
    """Return a type as the help shows it: a Literal by its words."""
    words = [str(node.value) for node in ast.walk(member) if isinstance(node, ast.Constant)]
    return words if ast.unparse(member).startswith("Literal[") else [ast.unparse(member)]


def _argument_helps(docstring: str) -> dict[str, str]:
    """Return the first sentence about each argument in a Google-style docstring."""
    helps: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Args:\n")[2].partition("\nRaises:")[0].splitlines():
        indent = len(line) - len(line.lstrip())
        head, colon, text = line.strip().partition(":")
        if indent == 4 and colon and head.isidentifier():
            name, helps[head] = head, text.strip()
        elif name and line.strip():
            helps[name] += " " + line.strip()
    plain = {key: re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "") for key, text in helps.items()}
    return {key: text.partition(". ")[0].rstrip(".") for key, text in plain.items()}
