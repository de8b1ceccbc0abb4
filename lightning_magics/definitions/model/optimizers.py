"""`configure_optimizers` from options: the optimizer, its scheduler, and the hyperparameters that they bring.

How a typed name is looked up is in `definitions/lookup`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ...errors import InputError
from ..cell import Hyperparameter
from ..generated import expression, method, snippet
from ..lookup import (
    Library,
    Notebook,
    OptionValue,
    accepts,
    check_keywords,
    keywords,
    literal,
    missing_arguments,
    signature,
)
from ..scopes import names_read

if TYPE_CHECKING:
    from ...options.parser import ModelOptions

_STEPS = "self.trainer.estimated_stepping_batches"
# What the Trainer or the optimizer knows, for the arguments that a scheduler needs for a whole run.
_RUN_ARGUMENTS = {
    "CosineAnnealingLR": {"T_max": _STEPS},
    "OneCycleLR": {"max_lr": "self.hparams.lr", "total_steps": _STEPS},
    "LinearLR": {"total_iters": _STEPS},
    "PolynomialLR": {"total_iters": _STEPS},
}
_STEP_SCHEDULERS = {"OneCycleLR", "CyclicLR"}
_WARMUPS = {
    "linear_warmup": "get_linear_schedule_with_warmup",
    "cosine_warmup": "get_cosine_schedule_with_warmup",
    "constant_warmup": "get_constant_schedule_with_warmup",
}
_WARMUP = 0.1  # part of all steps
# Biases and the weights of norms are the parameters of one dimension.
_GROUPS = '''
def _parameter_groups(self):
    """Return the parameters that train, with no weight decay for biases and norms."""
    trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
'''
HELPERS = ("_parameter_groups",)
_EXAMPLES = {
    "StepLR": "step_size=10",
    "MultiStepLR": "milestones=[10, 20]",
    "ExponentialLR": "gamma=0.95",
    "CosineAnnealingWarmRestarts": "T_0=10",
    "CyclicLR": "base_lr=1e-4, max_lr=1e-2",
    "LambdaLR": "lr_lambda=lambda epoch: 0.95 ** epoch",
    "MultiplicativeLR": "lr_lambda=lambda epoch: 0.95",
}


@dataclass
class OptimizerCode:
    """The method, those that it calls, and the hyperparameters that they read."""

    method: ast.FunctionDef
    helpers: list[ast.FunctionDef] = field(default_factory=list)
    hyperparameters: dict[str, Hyperparameter] = field(default_factory=dict)


def configure(
    options: ModelOptions, notebook: Notebook, default: str, lr: float | None, grouped: bool = False
) -> OptimizerCode:
    """Return `configure_optimizers` for the options.

    Args:
        options: of the model.
        notebook: where names are looked up.
        default: optimizer where none is asked for.
        lr: learning rate where none is asked for; None for the optimizer's own default.
        grouped: whether weight decay leaves out biases and norms.

    Raises:
        InputError: a name is unknown, or an argument is missing or unknown.
    """
    option = notebook.resolve(
        "--optimizer", options.optimizer or default, _optimizers(), 'Adam, or "SGD(momentum=0.9)"'
    )
    if not callable(option.value):
        raise InputError(
            f"--optimizer {option.text} is of type {type(option.value).__name__}; it takes the name of a class in "
            f"torch.optim"
        )
    check_keywords(option, "--optimizer")
    rates = {"lr": options.lr, "weight_decay": options.weight_decay}
    hyperparameters: dict[str, Hyperparameter] = {}
    for name, value in rates.items():
        item = _rate(name, value, option, lr, in_cell=name in notebook.hyperparameters)
        if item is not None:
            hyperparameters[name] = item
    helpers = [method(_GROUPS)] if grouped and accepts(option.value, "weight_decay") else []
    parameters = expression("self._parameter_groups()" if helpers else "self.parameters()")
    call = _with_arguments(option, [parameters], {name: f"self.hparams.{name}" for name in hyperparameters})
    call = notebook.on_instance(call)
    if options.scheduler is None:
        body = snippet("return CALL", CALL=call)
    else:
        body = _scheduler_body(call, options.scheduler, notebook, "lr" in hyperparameters)
    function = method("def configure_optimizers(self):\n    BODY", BODY=body)
    if any(isinstance(node, ast.Attribute) and node.attr == "warmup" for node in ast.walk(function)):
        hyperparameters["warmup"] = _warmup(options.warmup)
    elif options.warmup is not None:
        raise InputError("--warmup would have no effect without a scheduler such as --scheduler linear_warmup")
    return OptimizerCode(function, helpers, hyperparameters)


def _warmup(fraction: float | None) -> Hyperparameter:
    """Return the hyperparameter of the warm-up.

    Raises:
        InputError: it is no part of all steps.
    """
    if fraction is not None and not 0 <= fraction < 1:
        raise InputError(
            f"--warmup {fraction} is not a fraction of all steps, such as 0.1. For a number of steps: "
            f'--scheduler "linear_warmup(num_warmup_steps={fraction:g})"'
        )
    return Hyperparameter("warmup", ast.Name("float", ast.Load()), literal(_WARMUP if fraction is None else fraction))


def _optimizers() -> Library:
    base = torch.optim.Optimizer
    names = {
        name: value
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    return Library(names)


def _schedulers(scheduler: Any = None) -> Library:
    """What there is; those of transformers, which takes long to import, where a name asks for them."""
    short: dict[str, Any] = dict.fromkeys(_WARMUPS)
    if isinstance(scheduler, str) and ("warmup" in scheduler.lower() or "schedule" in scheduler.lower()):
        import transformers

        short = {name: getattr(transformers, full) for name, full in _WARMUPS.items()}
        short |= {full: short[name] for name, full in _WARMUPS.items()}
    module = torch.optim.lr_scheduler
    base = module.LRScheduler
    names = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and not name.endswith("LRScheduler")
    }
    return Library(names, short)


def _rate(
    name: str, value: float | None, option: OptionValue, default: float | None, in_cell: bool
) -> Hyperparameter | None:
    """Return the hyperparameter of a rate, or None where the optimizer keeps it to itself.

    One that the cell has already is used too, with the cell's own default.

    Raises:
        InputError: it is given twice, or the optimizer does not take it.
    """
    typed = keywords(option.call).get(name)
    if value is not None and typed is not None:
        raise InputError(f"--{name} {value} and --optimizer {option.text} both set {name}. Leave one out")
    if value is not None and not accepts(option.value, name):
        raise InputError(f"--{name} has no effect: --optimizer {option.text} takes no {name!r}. Leave --{name} out")
    own = {item.name: item.default for item in signature(option.value)}.get(name)
    if typed is not None:
        code: ast.expr | None = typed
    elif value is not None:
        code = literal(value)
    elif in_cell and accepts(option.value, name):
        code = None
    elif name == "lr" and name not in getattr(option.value, "keywords", {}) and own is not None:
        code = literal(default if default is not None else own if isinstance(own, int | float) else 1e-3)
    else:
        return None
    return Hyperparameter(name, ast.Name("float", ast.Load()), code)


def _with_arguments(option: OptionValue, first: list[ast.expr], extra: dict[str, str]) -> ast.expr:
    """Return the call that was asked for, with arguments put in; those that were typed stay, unless filled."""
    typed = option.call or ast.Call(option.code, [], [])
    kept = [item for item in typed.keywords if item.arg not in extra]
    more = [ast.keyword(name, expression(text)) for name, text in extra.items()]
    return ast.Call(option.code, [*first, *typed.args], [*more, *kept])


def _scheduler_body(optimizer: ast.expr, scheduler: Any, notebook: Notebook, has_lr: bool) -> list[ast.stmt]:
    """Return the statements that make the optimizer and the scheduler, and return both."""
    example = 'CosineAnnealingLR, or "StepLR(step_size=10)"'
    option = notebook.resolve("--scheduler", scheduler, _schedulers(scheduler), example)
    if not callable(option.value):
        raise InputError(f"--scheduler {option.text} is of type {type(option.value).__name__}; type {example}")
    check_keywords(option, "--scheduler")
    name = getattr(option.value, "__name__", "")
    typed = keywords(option.call)
    known = _RUN_ARGUMENTS.get(name, {}) if _schedulers().names.get(name) is option.value else {}
    by_step = name in _STEP_SCHEDULERS or getattr(option.value, "__module__", "").startswith("transformers")
    if by_step and name not in _STEP_SCHEDULERS:
        known = {"num_warmup_steps": f"round(self.hparams.warmup * {_STEPS})", "num_training_steps": _STEPS}
    named = [item.name for item in signature(option.value)][1 + len(option.call.args if option.call else []) :]
    filled = {key: text for key, text in known.items() if key in named and key not in typed}
    if name == "OneCycleLR" and "epochs" in typed:
        filled.pop("total_steps", None)
    if not has_lr and "self.hparams.lr" in filled.values():
        del filled["max_lr"]
    missing = [key for key in missing_arguments(option.value, option.call, 1) if key not in filled]
    if missing:
        typing = _EXAMPLES.get(name, ", ".join(f"{key}=..." for key in missing))
        raise InputError(f'--scheduler {option.text} needs {", ".join(missing)}. Type --scheduler "{name}({typing})"')
    by_step = by_step or _STEPS in filled.values()
    # The method must not bind the name of the user's own optimizer or scheduler.
    read = names_read(optimizer, option.call or option.code)
    local = "optimizer" if "optimizer" not in read else "made_optimizer"
    call = notebook.on_instance(_with_arguments(option, [expression(local)], filled))
    monitor = name == "ReduceLROnPlateau"
    config = expression(
        "{'scheduler': CALL, 'monitor': 'val_loss'}" if monitor else "{'scheduler': CALL, 'interval': WHEN}",
        CALL=call,
        WHEN=ast.Constant("step" if by_step else "epoch"),
    )
    return snippet(
        f"{local} = OPTIMIZER\nreturn {{'optimizer': {local}, 'lr_scheduler': CONFIG}}",
        OPTIMIZER=optimizer,
        CONFIG=config,
    )
