"""A cell or an object of the notebook becomes a LightningModule class.

Its network, steps and optimizer are in `network`, `steps`, `losses`, `metrics` and `optimizers`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...runs.randomness import preserve_random_state
from ..cell import (
    Cell,
    CellSource,
    Hyperparameter,
    calls,
    hparams_read,
    last_name,
    lightning_package,
    own_attributes,
    parse,
    rename_rebound,
    split,
    statements_of,
    use_attributes,
)
from ..constructor import complete_constructor, constructor
from ..definition import (
    DEFAULT_NAMES,
    Definition,
    changed_options,
    check_name,
    class_definition,
    class_source,
    default_name,
    is_module,
    option_names,
    uncompiled,
)
from ..evaluation import class_kinds, default_values, execute, run_complete_class
from ..generated import assemble, expression, snippet
from ..imports import bind_imports, notebook_imports
from ..lookup import Notebook
from ..scopes import Function, binds, names_read, parameters
from .fine_tuning import HELPERS as FINE_TUNING_HELPERS
from .fine_tuning import FineTuning, check_names, collect_new_weights, loads_pretrained_weights, new_weights_notice
from .inputs import Inputs
from .losses import find_loss
from .metrics import MetricOptions, find_metrics
from .network import FORMS, Network, find_network
from .optimizers import HELPERS as OPTIMIZER_HELPERS
from .optimizers import OptimizerCode, configure
from .steps import HELPERS, Steps

if TYPE_CHECKING:
    from ...options.parser import ModelOptions

_STEPS = ("training_step", "validation_step", "test_step")
_METRIC_OPTIONS = ("metrics", "task", "num_classes", "class_weights")


def model_definition(
    name: str | None,
    source: CellSource | Any,
    options: ModelOptions,
    namespace: dict[str, Any],
    package: str,
    local_names: Mapping[str, Any] | None = None,
) -> Definition:
    """Make a LightningModule class and bind it in the notebook.

    Args:
        name: to register under; None for the class's own, or ``Model``.
        source: the cell, or an object: LightningModule class, nn.Module class or instance, or a callable that
            returns one.
        options: what the cell itself does not give.
        namespace: the notebook's globals.
        package: Lightning package to build on.
        local_names: variables of the function that calls the magic, for options.

    Raises:
        InputError: the cell contains no model, or an option does not fit it.
    """
    check_name(name)
    tree = parse(source) if isinstance(source, CellSource) else None
    package = (lightning_package(tree) if tree is not None else None) or package
    importlib.import_module(package)
    if tree is None:
        return _adopt(name, source, options, Notebook(namespace, {}, "", local_names=local_names or {}), package)
    check_names(tree, namespace)
    kinds = class_kinds(tree, namespace)
    complete_classes = [item for item, kind in kinds.items() if kind == "lightning"]
    if chosen := run_complete_class(name, complete_classes, tree, source, namespace):
        definition = class_definition(name or chosen, namespace[chosen], options, namespace, source)
        class_nodes = [
            item for item in statements_of(tree.body) if isinstance(item, ast.ClassDef) and item.name == chosen
        ]
        return dataclasses.replace(definition, owned=_needed(class_nodes[-1], tree.body, namespace), notebook=namespace)
    parts = split(tree)
    if parts.expression is None and not parts.hooks:
        classes = [item for item, kind in kinds.items() if kind == "module"]
        if not classes:
            raise InputError(f"the cell contains no model{last_name(tree)}. {FORMS}")
        chosen = name if name in classes else classes[-1]
        name = name or chosen
        parts.expression = ast.Name(chosen, ast.Load())
    execute(parts.notebook, source, namespace)
    rename_rebound(parts, namespace)
    name = name or DEFAULT_NAMES["model"]
    notebook = Notebook(namespace, {}, name, local_names=local_names or {})
    return _Model(name, parts, options, notebook, package, source).define()


def _adopt(name: str | None, value: Any, options: ModelOptions, notebook: Notebook, package: str) -> Definition:
    """Make a definition of an object."""
    name = name or default_name("model", value)
    if is_module(uncompiled(value)):
        if not isinstance(value, type):
            raise InputError(f"{name} is already a LightningModule instance. Pass it to %lightning_fit directly")
        return class_definition(name, value, options, notebook.namespace)
    is_global = notebook.namespace.get(name) is value
    notebook = dataclasses.replace(notebook, owner=name)
    code = ast.Name(name, ast.Load()) if is_global else notebook.reference(value, "network")
    return _Model(name, Cell(expression=code), options, notebook, package, None).define()


@dataclass
class _Model:
    """One model in the making."""

    name: str
    cell: Cell
    options: ModelOptions
    notebook: Notebook
    package: str
    source: CellSource | None
    network: Network | None = None
    tuning: FineTuning = field(default_factory=FineTuning)
    summary: str = ""

    @preserve_random_state()
    def define(self) -> Definition:
        """Generate the class, bind it in the notebook, and describe it."""
        cell = self.cell
        if cell.expression is not None:
            with collect_new_weights() as names:
                self.network = find_network(cell, self.source, self.notebook)
            self.summary = new_weights_notice(names)
        defaults = default_values(cell, self.source, self.notebook.namespace)
        own = frozenset(binds(cell.inner))
        notebook = dataclasses.replace(self.notebook, hyperparameters=defaults, instance_names=own)
        hooks = {hook.name: hook for hook in cell.hooks}
        self.tuning = FineTuning.of(self.options, hooks)
        if self.network is not None and self.network.parameters and not self.network.copies:
            self.tuning.check([f"net.{name}" for name in self.network.parameters])
        if self.tuning.weights is not None:
            self.options = dataclasses.replace(self.options, loss="cross_entropy")
        method_names = self.missing_methods(hooks)
        steps = self.steps(notebook, hooks, method_names)
        optimizer = self.optimizer(notebook, hooks)
        self.add_rates(hooks, optimizer)
        methods = self.methods(hooks, steps, method_names, optimizer)
        return self.compiled(methods)

    @property
    def is_transformers(self) -> bool:
        return self.network is not None and self.network.is_transformers

    @property
    def code(self) -> list[ast.AST]:
        """The user's code that makes the network, as far as it is known."""
        cell = self.cell
        code: list[ast.AST] = [*cell.notebook, *cell.inner, *cell.hooks]
        if cell.expression is not None:
            code.append(cell.expression)
        if self.source is None and isinstance(cell.expression, ast.Name):
            adopted = self.notebook.namespace.get(cell.expression.id)
            if isinstance(adopted, type):
                with contextlib.suppress(SyntaxError):
                    code.append(ast.parse(textwrap.dedent(class_source(adopted))))
        return code

    @property
    def loads_pretrained(self) -> bool:
        """Whether that code loads something pretrained."""
        return loads_pretrained_weights(self.code)

    def missing_methods(self, hooks: dict[str, Function]) -> set[str]:
        """Return the methods that the cell leaves to be made.

        Raises:
            InputError: options are missing, or would have no effect.
        """
        options = self.options
        missing = [name for name in _STEPS if name not in hooks]
        objective = [name for name in changed_options(options) if name in ("loss", *_METRIC_OPTIONS)]
        has_forward = self.network is not None or "forward" in hooks
        if self.is_transformers and self.network is not None and not self.network.has_loss and missing == list(_STEPS):
            raise InputError(
                "this transformers model has no head and no loss. Use a class for the task, "
                "such as AutoModelForSequenceClassification, or put it into a network with its own head"
            )
        if not missing and objective:
            raise InputError(
                f"{option_names(objective)} would have no effect: the cell defines all steps. Leave it out"
            )
        if not options.metrics and (options.task or options.num_classes):
            raise InputError(
                f"{option_names(item for item in objective if item != 'loss')} would have no effect without --metrics"
            )
        names = {"forward"} if self.network is not None else set()
        names |= {"predict_step"} if self.network is not None or options.loss is not None else set()
        if options.loss is not None or (self.is_transformers and not (objective == [] and "training_step" in hooks)):
            if not has_forward:
                raise InputError("--loss needs a network: end the cell with one, or write forward(self, …)")
            names |= set(missing)
        elif "training_step" not in hooks:
            subject = "the network" if self.network is not None else "the cell has no training_step, and"
            verb = "needs" if self.network is not None else "it needs"
            raise InputError(f"{subject} {verb} a loss to train. Type --loss cross_entropy, --loss mse_loss or another")
        elif objective:
            raise InputError(
                f"{option_names(objective)} would have no effect without --loss: the cell defines training_step"
            )
        return names - hooks.keys()

    def steps(self, notebook: Notebook, hooks: dict[str, Function], method_names: set[str]) -> Steps:
        """Return what the steps are made of."""
        options = self.options
        if options.loss is not None and self.network is not None and self.network.is_causal:
            raise InputError(
                "--loss cannot be used on a causal language model: its logits are for the next token. "
                "Leave it out for the model's own loss, or write training_step in the cell"
            )
        loss = self.tuning.loss or (find_loss(options.loss, notebook) if options.loss is not None else None)
        if options.task in ("binary", "multilabel") and loss is not None and loss.task == "multiclass":
            raise InputError(
                f"--task {options.task} cannot be combined with --loss {loss.text}, which is for one class out of "
                f"several. Leave --task out, or type --loss binary_cross_entropy_with_logits"
            )
        inputs = self.network.inputs if self.network is not None else 1
        if "forward" in hooks:
            arguments = hooks["forward"].args
            inputs = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults) - 1
        metrics = None
        if options.metrics:
            if self.network is not None and self.network.is_causal:
                raise InputError(
                    "--metrics cannot be used on a causal language model: its logits are for the next token. "
                    "Write validation_step in the cell"
                )
            names = options.metrics if isinstance(options.metrics, list | tuple) else (options.metrics,)
            ignored = -100 if self.is_transformers else None
            own = self.network.task if self.network is not None and loss is None else None
            metric_options = MetricOptions(loss, options.task, options.num_classes, ignored, own)
            metrics = find_metrics(tuple(names), metric_options, notebook)
        from_left = self.network is not None and self.network.from_left
        generates = self.network is not None and self.network.generates
        input_kinds = self.network.input_kinds if self.network is not None and "forward" not in hooks else Inputs()
        return Steps(loss, metrics, self.is_transformers, inputs, from_left, generates, input_kinds)

    def optimizer(self, notebook: Notebook, hooks: dict[str, Function]) -> OptimizerCode | None:
        """Return the optimizer, or None where the cell has its own.

        Raises:
            InputError: an option would have no effect.
        """
        if "configure_optimizers" not in hooks:
            if self.is_transformers or self.loads_pretrained:
                return configure(self.options, notebook, "AdamW", 5e-5, grouped=True)
            return configure(self.options, notebook, "Adam", None, self.network is not None and self.network.encodes)
        useless = [name for name in changed_options(self.options) if name in ("optimizer", "scheduler", "warmup")]
        rates = [name for name in ("lr", "weight_decay") if getattr(self.options, name) is not None]
        read = names_read(*hooks.values()) | hparams_read(hooks.values())
        useless += [name for name in rates if name not in read and name not in self.cell.hyperparameters]
        if useless:
            raise InputError(f"{option_names(useless)} would have no effect: the cell defines configure_optimizers")
        return None

    def add_rates(self, hooks: dict[str, Function], optimizer: OptimizerCode | None) -> None:
        """Add the hyperparameters that options bring; what an option says is the default, else what the cell says.

        Raises:
            InputError: the cell's own `__init__` has a parameter that an option gives.
        """
        known = self.cell.hyperparameters
        added = dict(optimizer.hyperparameters) if optimizer is not None else {}
        added |= self.tuning.hyperparameters
        for name in ("lr", "weight_decay"):
            value = getattr(self.options, name)
            if value is not None and name not in added:
                added[name] = Hyperparameter(name, expression("float"), ast.Constant(value))
            own = parameters(hooks["__init__"].args) if "__init__" in hooks else []
            if value is not None and any(arg.arg == name for arg in own):
                raise InputError(
                    f"--{name} would have no effect: __init__ in the cell has its own {name}. "
                    f"Set its default there, or pass it to the fit: --model.{name} {value}"
                )
        for name, item in added.items():
            if name not in known:
                known[name] = item
            elif getattr(self.options, name) not in (None, ()):
                known[name] = dataclasses.replace(known[name], default=item.default)

    def methods(
        self, hooks: dict[str, Function], steps: Steps, method_names: set[str], optimizer: OptimizerCode | None
    ) -> list[Function]:
        """Return the methods of the class: the constructor, the user's, then those that were made."""
        cell = self.cell
        own = hooks.pop("__init__", None)
        others = [hook for hook in cell.hooks if hook.name != "__init__"]  # a property's parts are all of one name
        kept = self.kept_attributes(others, steps)
        if own is None and self.network is None and not kept:
            self.check_parameters(others)
        changed = [name for name, item in cell.hyperparameters.items() if _is_changed(item, cell)]
        body = snippet("\n".join(f"{name} = deepcopy({name})" for name in changed)) + cell.inner
        body += snippet("\n".join(f"self.{name} = {local}" for name, local in kept.items()))
        body += [*steps.start(), *self.tuning.start()]
        if self.network is not None:
            body += snippet("self.net = NET", NET=self.network.code)
            # from_pretrained leaves a model in evaluation mode, and Lightning does not change that.
            evaluates = self.network.evaluates or (self.loads_pretrained and not calls(self.code, "eval"))
            body += snippet("self.net.train()") if self.is_transformers or evaluates else []
        hyperparameters = cell.hyperparameters
        generated = steps.methods(method_names)
        if optimizer is not None:
            generated += [optimizer.method, *optimizer.helpers]
        attributes = {name: f"self.hparams.{name}" for name in hyperparameters}
        attributes |= {name: f"self.{name}" for name in kept}
        for function in others:
            use_attributes(function, attributes)
        init = constructor(hyperparameters, body) if own is None else complete_constructor(own, hyperparameters, body)
        if own is not None and self.network is None and self.loads_pretrained and not calls(own.body, "eval"):
            init.body += snippet("self.train()")  # likewise
        init.body += self.tuning.end()
        generated += self.tuning.methods()
        generated.sort(key=lambda item: item.name.startswith("_"))
        _rename_helpers(generated, set(hooks))
        return [init, *others, *generated]

    def check_parameters(self, hooks: list[Function]) -> None:
        """Refuse hooks that use networks of the notebook where the model has none: their weights would not be trained.

        Raises:
            InputError: names them.
        """
        import torch

        names = sorted(names_read(*hooks) & binds(self.cell.notebook))
        names = [name for name in names if isinstance(self.notebook.namespace.get(name), torch.nn.Module)]
        if names:
            raise InputError(
                f"the model has no parameters to train: its hooks use {', '.join(names)} from the notebook. "
                f"Type {', '.join(f'self.{name}' for name in names)} instead, or end the cell with the network"
            )

    def kept_attributes(self, hooks: list[Function], steps: Steps) -> dict[str, str]:
        """Return the attributes that keep what hooks read of an instance's parts, each with its name in `__init__`.

        Raises:
            InputError: the instance has another attribute of that name.
        """
        module = importlib.import_module(self.package).LightningModule
        attributes = own_attributes(self.cell.hooks) - {*dir(module), "net" if self.network is not None else ""}
        kept = {name: name for name in sorted((names_read(*hooks) | attributes) & binds(self.cell.inner))}
        kept |= self.network.copies if self.network is not None else {}
        own = {ast.unparse(item.targets[0]) for item in steps.start() if isinstance(item, ast.Assign)}
        if self.network is not None and ast.unparse(self.network.code) != "net":
            own.add("self.net")
        for name in kept:
            if hasattr(module, name) or name in ("training", *(hook.name for hook in hooks)) or f"self.{name}" in own:
                raise InputError(
                    f"hooks read {name!r}, which the cell creates for each instance, but a model has another "
                    f"attribute with that name. Rename it in the cell"
                )
        return kept

    def compiled(self, methods: list[Function]) -> Definition:
        """Compile the class, run its definition in the notebook, and describe it."""
        # What makes the network may be of the name; hooks that read it mean their own class.
        read = names_read(*(item for item in methods if item not in self.cell.hooks))
        capital = self.name[0].upper() + self.name[1:]
        name = f"Lit{capital}" if self.name in read else self.name
        loss = f", trained with {self.options.loss}" if isinstance(self.options.loss, str) else ""
        kind = "A transformers model" if self.is_transformers else "A network" if self.network else "A model"
        docstring = ast.Expr(ast.Constant(self.cell.docstring or f"{kind} of a notebook{loss}."))
        cls = ast.ClassDef(name, [expression("pl.LightningModule")], [], [docstring, *methods], [])
        imports = bind_imports([cls], self.package, self.notebook.namespace)
        imported = binds(imports)
        imports += notebook_imports(imports, [*self.cell.in_text, cls], self.notebook.namespace)
        generated = assemble([*imports, *self.cell.in_text], [cls], name, self.source)
        exec(generated.code, self.notebook.namespace)
        form = "transformers" if self.is_transformers else "network" if self.network else "hooks"
        form = "hooks" if self.cell.hooks else form
        text = self.source.text if self.source else ""
        model_class, namespace = self.notebook.namespace[name], self.notebook.namespace
        owned = _needed(cls, self.cell.notebook, namespace) | self.notebook.aliases
        owned |= {name: namespace[name] for name in imported}
        return Definition(
            self.name,
            model_class,
            generated.text,
            text,
            form,
            self.package,
            owned=owned,
            notebook=namespace,
            summary=self.summary,
        )


def _needed(cls: ast.AST, statements: Iterable[ast.stmt], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the functions and classes that statements put into the notebook and that a class needs there."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {item.name: item for item in statements if isinstance(item, kinds) and item is not cls}
    read, needed = names_read(cls), set[str]()
    while unvisited := read & defined.keys() - needed:
        needed |= unvisited
        read |= names_read(*(defined[name] for name in unvisited))
    return {name: namespace[name] for name in needed if name in namespace}


def _is_changed(item: Hyperparameter, cell: Cell) -> bool:
    """Whether a cell changes the list, dict or set that is a hyperparameter's default, which all instances share."""
    if not isinstance(item.default, ast.List | ast.Dict | ast.Set):
        return False
    for node in ast.walk(ast.Module([*cell.inner, ast.Expr(cell.expression or ast.Constant(None))], [])):
        changed: ast.AST | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            changed = node.func.value
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            changed = node.value
        elif isinstance(node, ast.AugAssign):
            changed = node.target
        if isinstance(changed, ast.Name) and changed.id == item.name:
            return True
    return False


def _rename_helpers(functions: list[ast.FunctionDef], reserved: set[str]) -> None:
    """Give the methods that steps call other names where the user has methods of those names."""
    renamed = {
        name: f"{name}_of_options" for name in (*HELPERS, *OPTIMIZER_HELPERS, *FINE_TUNING_HELPERS) if name in reserved
    }
    for function in functions:
        function.name = renamed.get(function.name, function.name)
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and not hasattr(node, "lineno"):
                node.attr = renamed.get(node.attr, node.attr)
