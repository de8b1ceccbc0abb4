"""The help of a magic, from the declarations of its options."""

from __future__ import annotations

import textwrap

from .. import clusters
from ..errors import InputError
from .declared import (
    RUNNING,
    Option,
    own_options,
)
from .trainer_arguments import trainer_options

_WIDTH = 100
_USAGE = {
    "model": "[NAME]",
    "data": "[NAME [FILE …]]",
    "source": "NAME",
    "fit": "MODEL [DATA …]",
    **dict.fromkeys(("validate", "test"), "MODEL|RUN [DATA …]"),
    "predict": "MODEL|RUN [DATA …|'A SENTENCE' …]",
    "runs": "[PATTERN]",
    **dict.fromkeys(("attach", "stop", "load", "rerun"), "RUN"),
    "board": "[RUN …|DIR]",
    "export": "RUN|MODEL [DATA] FILE",
}


def help_text(verb: str) -> str:
    """Return the table of a magic's own options, for its docstring."""
    rows = [(f"  {_signature(option)}", option.help + _shown_default(option)) for option in own_options(verb).values()]
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)


def full_help(verb: str, everything: bool = False) -> str:
    """Return what ``--help`` shows, which fits a screen; with `everything`, what ``--help-all`` does.

    That is the usage and the magic's own options. The arguments of Trainer are named, and with `everything` described
    with their types and defaults, as are the parameters of clusters.
    """
    parts = [f"%lightning_{verb} {_USAGE[verb]}{' [options]' if own_options(verb) else ''}"]
    if own_options(verb):
        parts.append(f"Options:\n{help_text(verb)}")
    if verb in RUNNING:
        parts.append(
            "Constructor arguments:\n  --model.NAME VALUE  a hyperparameter of the model\n"
            "  --data.NAME VALUE   a hyperparameter of the DataModule"
        )
        arguments = [option for option in trainer_options().values() if option.name not in own_options(verb)]
        if everything:
            parts += map(_engine_help, clusters.names())
            rows = [
                f"  --{item.name}  {item.annotation} = {item.default}\n      {item.help}".rstrip() for item in arguments
            ]
            parts.append("Arguments of Trainer:\n" + "\n".join(rows))
        else:
            names = textwrap.wrap(
                " ".join(f"--{item.name}" for item in arguments), _WIDTH, break_on_hyphens=False, break_long_words=False
            )
            parts.append("Arguments of Trainer:\n" + textwrap.indent("\n".join(names), "  "))
            parts.append(f"Type %lightning_{verb} --help-all to see what these do, and the parameters for clusters.")
    return "\n\n".join(parts)


def _engine_help(name: str) -> str:
    """The parameters of an engine that are best known."""
    try:
        rows = [(f"  --{name}.{parameter}", text) for parameter, text in clusters.engine(name).help]
    except InputError as error:
        rows = [(f"  {error}", "")]
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join([f"With --cluster {name}:", *(f"{left:<{width}}  {right}".rstrip() for left, right in rows)])


def _signature(option: Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    value = "|".join(option.choices) or option.metavar or ("true|false" if option.default is True else "")
    more = " …" if option.several else ""
    return f"{short}--{option.name}{f' {value}' if value else ''}{more}"


def _shown_default(option: Option) -> str:
    return (
        f" (default {option.default})"
        if option.default is not None and option.default != () and option.default is not False
        else ""
    )
