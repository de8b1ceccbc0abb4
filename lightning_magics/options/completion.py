"""What can be typed next in a line of these magics, and the matcher that tells IPython.

The options are those of `parser`; nothing here imports torch or Lightning, so that a first Tab is instant.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Protocol

from .. import clusters
from ..errors import InputError
from .declared import DECLARED, RUNNING, Option, Verb, own_options
from .parser import is_option, known_names
from .tokens import tokenize
from .trainer_arguments import TrainerOption, trainer_options

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

_LINE = re.compile(r"(?P<before>[^%#]*=)?\s*(?P<magic>%{1,2})lightning_(?P<verb>[a-z]+)\s+(?P<rest>.*)", re.DOTALL)
_IDENTIFIER = "lightning_magics"
_PRIORITY = 100.0  # before IPython's matchers: Jedi would read the line as Python
_BOOLS = ("True", "False")
# Where the names that an option takes are found, once the user has imported it.
_LIBRARIES: dict[str, tuple[str, Callable[[str, Any], bool]]] = {
    "loss": ("torch.nn.functional", lambda name, value: callable(value) and ("loss" in name or "entropy" in name)),
    "optimizer": ("torch.optim", lambda name, value: inspect.isclass(value) and hasattr(value, "step")),
    "scheduler": ("torch.optim.lr_scheduler", lambda name, value: inspect.isclass(value) and hasattr(value, "step")),
    "metrics": ("torchmetrics.functional", lambda name, value: inspect.isfunction(value)),
}


def complete(
    verb: Verb,
    line_before_cursor: str,
    word: str,
    models: Sequence[str],
    data: Sequence[str],
    names: Sequence[str],
    *,
    model_params: Sequence[str] = (),
    data_params: Sequence[str] = (),
    runs: Callable[[], Sequence[str]] = list,
    metrics: Callable[[], Sequence[str]] = list,
) -> list[str]:
    """Return what the word at the cursor may become, the likeliest first.

    Args:
        verb: the magic.
        line_before_cursor: the line after the magic's name, up to the cursor; it ends with the word.
        word: the part of it that is being typed; empty after a space.
        models: names of the models.
        data: names of the data.
        names: the notebook's other variables.
        model_params: constructor arguments of the model on the line.
        data_params: constructor arguments of the data on the line.
        runs: tells the names of the runs.
        metrics: tells the names of their metrics.
    """
    try:
        tokens = tokenize(line_before_cursor[: len(line_before_cursor) - len(word)])
    except InputError:
        return []  # within a quote or a bracket: Python's own completion
    if word.startswith("-"):
        option, equals, value = word.partition("=")
        if equals:
            values = _values(_option(verb, option[2:].replace("-", "_")), names)
            return [f"{option}={item}" for item in _with_prefix(value, values)]
        return _options(verb, tokens, word, {"model": model_params, "data": data_params})
    pending, positional, count = _pending_option(verb, tokens)
    offered = _values(pending, names) if pending is not None else []
    option_name = pending.name if pending is not None else ""
    if option_name in ("monitor", "early_stop"):
        offered += metrics()
    if verb == "runs" and option_name in ("sort", "plot"):
        offered += metrics()
    elif verb == "runs" and option_name == "model":
        offered += [*models, *(name.partition("/")[0] for name in runs())]
    elif (positional and verb in _OF_RUNS and (not count or verb == "board")) or option_name in _TAKE_RUNS:
        offered += [*(models if verb == "export" and positional else ()), *runs()]
    elif positional and verb != "rerun":
        offered += _positional(verb, count, models, data, names)
    if not offered and not word and pending is None:
        return _options(verb, tokens, word, {})
    return _with_prefix(word, offered)


_OF_RUNS = ("runs", "attach", "stop", "board", "load", "rerun", "export")
_TAKE_RUNS = ("resume", "compare", "delete")


def _with_prefix(word: str, offered: Iterable[str]) -> list[str]:
    return [item for item in dict.fromkeys(offered) if item.startswith(word)]


def _positional(verb: str, count: int, models: Sequence[str], data: Sequence[str], names: Sequence[str]) -> list[str]:
    if verb in RUNNING:
        return [*models, *data, *names] if count == 0 else [*data, *names, *models]
    if verb == "export":
        return [*data, *names] if count == 1 else []
    if count:
        return []
    return {"model": [*models, *names], "data": [*data, *names]}.get(verb, [*models, *data])


def _options(verb: Verb, tokens: list[str], word: str, params: Mapping[str, Sequence[str]]) -> list[str]:
    """The options that are not on the line yet, spelled with dashes where the word is."""
    typed_options = {token[2:].partition("=")[0].replace("-", "_") for token in tokens if token.startswith("--")}
    own = own_options(verb)
    offered = [
        f"--{name}" for name in _known_names(verb) if name not in typed_options or (name in own and own[name].many)
    ]
    if verb in RUNNING:
        for prefix in ("model", "data"):
            dotted = [
                f"--{prefix}.{name}" for name in params.get(prefix, ()) if f"{prefix}.{name}" not in typed_options
            ]
            offered += dotted or [f"--{prefix}."]
        prefix, dot, _ = word[2:].partition(".")
        offered += _engine_options(prefix, typed_options) if dot else [f"--{name}." for name in clusters.names()]
    if "-" in word[2:]:
        offered = ["--" + item[2:].replace("_", "-") for item in offered]
    return _with_prefix(word, [*offered, "--help", *(["--help-all"] if verb in RUNNING else [])])


def _engine_options(prefix: str, typed_options: Set[str]) -> list[str]:
    """Parameters of an engine that are not on the line yet; lines of a script may be several."""
    engine = _engine(prefix)
    if engine is None:
        return []
    parameters = {name: f"{prefix}.{name}" for name in engine.parameter_names()}
    return [f"--{option}" for name, option in parameters.items() if option not in typed_options or name in engine.lines]


def _engine(name: str) -> clusters.Engine | None:
    """The engine of a name; None where there is none that works, as for a hyperparameter of model or data."""
    try:
        return clusters.engine(name) if name not in ("model", "data") and clusters.is_engine(name) else None
    except InputError:
        return None


def _known_names(verb: Verb) -> list[str]:
    try:
        return known_names(verb)
    except InputError:  # no Lightning: its arguments are missing, and a fit will say so
        return list(own_options(verb))


def _option(verb: Verb, name: str) -> Option | TrainerOption:
    """Return a declaration; one that takes any value for --model.NAME, and for what does not exist."""
    if name in own_options(verb):
        return own_options(verb)[name]
    if name in _known_names(verb):
        return trainer_options()[name]
    prefix, _, parameter = name.partition(".")
    if (engine := _engine(prefix)) is not None:
        return Option(name, (bool,) if parameter in engine.flags else (str,), None, "")
    return Option(name, (object,), None, "")


def _pending_option(verb: Verb, tokens: list[str]) -> tuple[Option | TrainerOption | None, bool, int]:
    """Return the option that can take the next token, whether that may be positional, and how many were."""
    short = {f"-{option.short}": name for name, option in own_options(verb).items() if option.short}
    option: Option | TrainerOption | None = None
    values = count = 0  # of the option; of positionals
    for token in tokens:
        if is_option(token) or token in short:
            name, equals, _ = token[2:].partition("=")
            option = None if equals else _option(verb, short.get(token) or name.replace("-", "_"))
            values = 0
        elif option is not None and _takes(option, token, values):
            values += 1
        else:
            option = None
            count += 1
    if option is None or not _takes(option, None, values):
        return None, True, count
    return option, option.flag or (values > 0 and not _several(option)), count


def _takes(option: Option | TrainerOption, token: str | None, values: int) -> bool:
    """Whether an option with so many values takes a token; one not yet typed (None) is taken where any may be."""
    if isinstance(option, TrainerOption) or option.flag:
        return not values and (token is None or not option.flag or option.takes(token))
    return not values or option.several or (option.repeated and (token is None or token in option.words))


def _several(option: Option | TrainerOption) -> bool:
    return isinstance(option, Option) and option.several


def _values(option: Option | TrainerOption, names: Sequence[str]) -> list[str]:
    """What an option may be given: its words, and variables where it takes their value."""
    if isinstance(option, TrainerOption):
        words = [*option.choices, *(_BOOLS if option.flag else ())]
        return words if option.flag or option.types <= {"str", "None"} else [*words, *names]
    if option.flag:
        return list(_BOOLS)
    prefix, dot, parameter = option.name.partition(".")
    if dot and (engine := _engine(prefix)) is not None:
        return engine.parameter_values(parameter)
    words = [*option.all_choices(), *option.words, *_library_names(option.name)]
    return [*words, *names] if option.kinds == (object,) else words


def _library_names(name: str) -> list[str]:
    """Names for an option in the library that has them, if that is imported already."""
    if name not in _LIBRARIES:
        return []
    module, fits = _LIBRARIES[name]
    attributes = getattr(sys.modules.get(module), "__dict__", {})
    return sorted(key for key, value in list(attributes.items()) if not key.startswith("_") and fits(key, value))


class HasDefinitions(Protocol):
    """The part of a session that completion reads: what is defined, by name."""

    @property
    def models(self) -> Mapping[str, Any]:
        """Models by name."""

    @property
    def datas(self) -> Mapping[str, Any]:
        """Data by name."""

    def run_names(self) -> list[str]:
        """Names of the runs."""

    def metric_names(self) -> list[str]:
        """Names of their metrics."""


def install(shell: InteractiveShell, session: Callable[[], HasDefinitions]) -> None:
    """Complete the lines of these magics in a shell, from what its session has defined.

    Args:
        shell: whose completer it is.
        session: returns the session, which is made when it is first needed.
    """
    from IPython.core.completer import context_matcher

    @context_matcher(identifier=_IDENTIFIER, priority=_PRIORITY)  # type: ignore[untyped-decorator]
    def lightning_magics_matcher(context: CompletionContext) -> SimpleMatcherResult:
        return _matches(context, shell, session)

    uninstall(shell)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(lightning_magics_matcher)


def uninstall(shell: InteractiveShell) -> None:
    """Take back what `install` did."""
    if shell.Completer is not None:
        matchers = shell.Completer.custom_matchers
        matchers[:] = [item for item in matchers if getattr(item, "matcher_identifier", "") != _IDENTIFIER]


def _matches(
    context: CompletionContext, shell: InteractiveShell, of_shell: Callable[[], HasDefinitions]
) -> SimpleMatcherResult:
    """Complete at the cursor if a line of these magics is there; else leave it to IPython's own matchers."""
    from IPython.core.completer import SimpleCompletion

    line = _LINE.fullmatch(context.text_until_cursor)
    above = context.full_text.split("\n")[: context.cursor_line]
    if (
        not line
        or line["verb"] not in DECLARED
        or (line["magic"] == "%%" and (line["before"] or "".join(above).strip()))
    ):
        return {"completions": []}
    session = of_shell()
    verb: Any = line["verb"]
    word = re.search(r"\S*$", line["rest"])[0]  # type: ignore[index]  # matches everywhere
    params: dict[str, Any] = {}
    if word.startswith(("--model.", "--data.")):
        params = _parameters(line["rest"][: -len(word)], shell.user_ns, session)
    models, datas = list(session.models), list(session.datas)
    known: dict[str, Any] = {"runs": session.run_names, "metrics": session.metric_names}
    completions = complete(verb, line["rest"], word, models, datas, _variables(shell), **params, **known)
    return {
        "completions": [SimpleCompletion(text=item, type=_kind(item)) for item in completions],
        "matched_fragment": word,
        "ordered": True,
        "suppress": bool(completions),
    }


def _kind(item: str) -> str:
    return "param" if item.startswith("-") else "value"


def _variables(shell: InteractiveShell) -> list[str]:
    """The user's own names, newest last; neither modules nor what IPython puts there."""
    return [
        name
        for name, value in shell.user_ns.items()
        if not name.startswith("_") and name not in shell.user_ns_hidden and not isinstance(value, types.ModuleType)
    ]


def _parameters(rest: str, namespace: Mapping[str, Any], session: HasDefinitions) -> dict[str, list[str]]:
    """Constructor arguments of the model and of the data that the line names so far."""
    try:
        words = tokenize(rest)
    except InputError:
        return {}
    params = {}
    for key, defined in (("model_params", session.models), ("data_params", session.datas)):
        known = [defined[word].cls for word in words if word in defined]
        # Else the first word can only be the model, and the second the data.
        place = 0 if key == "model_params" else 1
        if not known and len(words) > place and inspect.isclass(namespace.get(words[place])):
            known = [namespace[words[place]]]
        if known:
            signature = inspect.signature(known[0]).parameters.values()
            params[key] = [item.name for item in signature if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)]
    return params
