"""The help of a magic, from the declarations of its options."""

from __future__ import annotations

from .declared import (
    RUNNING,
    Option,
    own_options,
)
from .trainer_arguments import trainer_options

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


def full_help(verb: str) -> str:
    """Return what ``--help`` shows: usage, own options, and the arguments of Trainer with type and default."""
    parts = [f"%lightning_{verb} {_USAGE[verb]}{' [options]' if own_options(verb) else ''}"]
    if own_options(verb):
        parts.append(f"Options:\n{help_text(verb)}")
    if verb in RUNNING:
        parts.append(
            "Constructor arguments:\n  --model.NAME VALUE  a hyperparameter of the model\n"
            "  --data.NAME VALUE   a hyperparameter of the DataModule"
        )
        parts.append(
            "With --cluster slurm:\n"
            "  --slurm.NAME VALUE       a parameter of submitit: partition, time (minutes), mem …\n"
            "  --slurm.setup LINE       a line to run on the node first, such as 'module load cuda'; may be repeated\n"
            "  --slurm.inside           run in the notebook's own allocation, without queueing\n"
            "  --slurm.requeues N       maximum number of times to requeue a job after a node failure (default 3)"
        )
        rows = []
        for option in trainer_options().values():
            if option.name not in own_options(verb):
                rows.append(f"  --{option.name}  {option.annotation} = {option.default}\n      {option.help}")
        parts.append("Arguments of Trainer:\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _signature(option: Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    value = "|".join(option.choices) or option.metavar
    more = " …" if option.several else ""
    return f"{short}--{option.name}{f' {value}' if value else ''}{more}"


def _shown_default(option: Option) -> str:
    return (
        f" (default {option.default})"
        if option.default is not None and option.default != () and option.default is not False
        else ""
    )
