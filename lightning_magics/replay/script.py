"""A fit as a script of plain Lightning, or as a notebook of its parts, which need nothing of this package.

Which statements it is made of is found by `closure`, how the fit was put together is told by a `recipe.Recipe`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..definitions.definition import PACKAGES
from ..definitions.generated import expression, snippet
from ..errors import InputError
from ..options.declared import metric_and_mode, metric_and_patience
from ..scores import Mode, mode_of
from .closure import SourceModule, sorted_imports
from .history import statements_of
from .layout import layout_module, wrap_code
from .recipe import Recipe

_LOADABLE = ("loaders", "dataset", "iterable", "tensor", "tensors")
LOGGERS = {
    "tensorboard": "PL.loggers.TensorBoardLogger('.')",
    "csv": "PL.loggers.CSVLogger('.')",
    "mlflow": "PL.loggers.MLFlowLogger(experiment_name=NAME, tracking_uri='sqlite:///mlflow.db')",
    "wandb": "PL.loggers.WandbLogger(project=NAME, offline=True)",
}
_PRINT_METRICS = """
if TRAINER.is_global_zero:
    for METRIC, VALUE in TRAINER.callback_metrics.items():
        print(f"{METRIC}={float(VALUE)}")
"""
_UNCOMPILED_LOG = """
MODEL._orig_mod.log = TORCH._dynamo.disable(MODEL._orig_mod.log)
MODEL._orig_mod.log_dict = TORCH._dynamo.disable(MODEL._orig_mod.log_dict)
"""


@dataclass
class Script:
    """A script in the making.

    Attributes:
        name: of the model; `recipe` how the fit was put together.
        module: what it is made of.
        precision: that ``--amp`` came to.
        devices: number of processes that ``--ddp`` came to; `strategy` likewise.
        notes: what its reader should know.
        directions: which way the run took its metrics to get better.
        checkpoint_metric: of the checkpoint that the run kept beside those of the user's own callbacks, if it did.
    """

    name: str
    recipe: Recipe
    module: SourceModule
    precision: str = ""
    devices: str = ""
    strategy: str = ""
    notes: tuple[str, ...] = ()
    directions: Mapping[str, Mode] = field(default_factory=dict)
    checkpoint_metric: str = ""
    _imports: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let all be of one Lightning package: each Trainer refuses what is of the other, which a run bridges."""
        package = self.recipe.package
        other = next(item for item in PACKAGES if item != package)
        imports = [
            re.sub(rf"^(import|from) {re.escape(other)}\b", rf"\1 {package}", text) for text in self.module.imports
        ]
        self.module = replace(self.module, imports=tuple(imports))

    def check(self, subject: str) -> None:
        """Refuse what cannot be exported.

        Raises:
            InputError: names what is not known, and what to do.
        """
        missing = self.recipe.missing
        if missing or not self.recipe.model:
            listed = "; ".join(f"{name}: {why}" for name, why in missing.items())
            raise InputError(f"{subject} cannot be exported. Its source lacks {listed or 'the model'}")
        data, forms = self.recipe.data, self.recipe.forms
        if not set(forms) <= {*_LOADABLE, "datamodule"}:
            name = data[0] if len(data) == 1 and data[0].isidentifier() else self._free_name("data")
            value = data[0] if len(data) == 1 else f"{{'train': {data[0]}, 'val': {data[1]}}}"
            assigned = f"{name} = {value} in a cell, then " if name != value else ""
            label = " --label COLUMN" if "table" in forms else ""
            raise InputError(
                f"{subject} cannot be exported: its data {', '.join(data)} was not defined with %lightning_data. "
                f"Run {assigned}%lightning_data {name}{label}, then %lightning_fit {self.name} {name}, "
                f"and export that run"
            )

    def python(self, about: str) -> str:
        """The script.

        Args:
            about: its first sentence.
        """
        main = self._main(under_torchrun=True)
        name = self._free_name("main")
        function = snippet(f"def {name}():\n    BODY", BODY=main)
        guard = snippet(f"if __name__ == '__main__':\n    {name}()")
        text = "\n".join([about, *(["", *self.notes] if self.notes else [])])
        head = f'"""{text}"""' if not self.notes else f'"""{text}\n"""'
        body = [*self.module.body, _text(function), _text(guard)]
        return f"{head}\n\n{layout_module(self._import_block(), body)}"

    def notebook(self, about: str) -> str:
        """A notebook of the same content, as JSON."""
        main = _text(self._main(under_torchrun=False))
        cells = [self._import_block(), *_cell_texts(self.module.body), main]
        title = "\n\n".join([f"# {self.name}", about, *self.notes])
        notebook_cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": title}]
        for number, source in enumerate(cells):
            code: dict[str, Any] = {
                "cell_type": "code",
                "id": f"cell-{number}",
                "metadata": {},
                "source": source.rstrip(),
            }
            notebook_cells.append(code | {"execution_count": None, "outputs": []})
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = {"cells": notebook_cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _import_block(self) -> str:
        return "\n".join(sorted_imports([*self.module.imports, *self._imports]))

    def _main(self, under_torchrun: bool) -> list[ast.stmt]:
        """The statements that make everything, train, and print the metrics."""
        recipe = self.recipe
        statements: list[ast.stmt] = []
        seed = recipe.options.get("seed")
        if seed is not None:
            statements += snippet("PL.seed_everything(SEED, workers=True)", PL=self._lightning, SEED=ast.Constant(seed))
        model = self._assign("model", _construction(recipe.model, recipe.arguments), statements)
        data_keywords = self._data_keywords(statements)
        statements += self._output_statements(model)
        if recipe.compiled:  # as in a fit: what `log` looks up ends the compiler of torch 2.13
            statements += snippet(_UNCOMPILED_LOG, MODEL=model, TORCH=self._import("torch"))
        if recipe.plain_yaml:
            statements += snippet("PL.core.saving._OMEGACONF_AVAILABLE = False", PL=self._lightning)
        trainer = self._assign("trainer", self._trainer(under_torchrun), statements)
        fit = expression("TRAINER.fit(MODEL)", TRAINER=trainer, MODEL=model)
        assert isinstance(fit, ast.Call)
        fit.keywords = [*data_keywords, *self._checkpoint_keywords()]
        names = {name.upper(): _name(self._free_name(name)) for name in ("metric", "value")}
        return [*statements, ast.Expr(fit), *snippet(_PRINT_METRICS, TRAINER=trainer, **names)]

    def _data_keywords(self, statements: list[ast.stmt]) -> list[ast.keyword]:
        """Add the statements that make the data; return what `fit` is given of it."""
        recipe = self.recipe
        if not recipe.data:
            return []
        if recipe.forms[0] == "datamodule":
            data = self._assign("data", _construction(recipe.data[0], recipe.data_arguments), statements)
            if recipe.loaded:
                statements += snippet("DATA.data = LOADED", DATA=data, LOADED=_name(recipe.loaded))
            if recipe.classes:
                order = expression(repr(recipe.classes))
                statements += snippet("DATA.order_classes(ORDER)", DATA=data, ORDER=order)
            for name in [name for name in ("columns", "labels", "classes") if name in recipe.table]:
                statements += snippet(f"DATA.{name} = VALUE", DATA=data, VALUE=_code(recipe.table[name]))
            return [ast.keyword("datamodule", data)]
        keywords = []
        for place, (code, form) in enumerate(zip(recipe.data, recipe.forms, strict=True)):
            value = self._loader(code, form, train=place == 0)
            loader = self._assign(("train_loader", "val_loader")[place], value, statements)
            keywords.append(ast.keyword(("train_dataloaders", "val_dataloaders")[place], loader))
        return keywords

    def _output_statements(self, model: ast.expr) -> list[ast.stmt]:
        """The statements that name a classifier's outputs, for whoever loads it once it is saved."""
        names, path = self.recipe.outputs, self.recipe.classifier
        if not names:
            return []
        is_plain = all(map(str.isidentifier, path.split(".")))
        part = expression(f"MODEL.{path}" if is_plain else f"MODEL.get_submodule({path!r})", MODEL=model)
        return snippet(
            "PART.config.id2label = NAMES\nPART.config.label2id = NUMBERS",
            PART=part,
            NAMES=expression(repr(dict(enumerate(names)))),
            NUMBERS=expression(repr({name: number for number, name in enumerate(names)})),
        )

    def _loader(self, code: str, form: str, train: bool) -> ast.expr:
        """A DataLoader over a dataset, as a fit makes one; a loader as it is."""
        if form == "loaders":
            return _code(code)
        torch = self._import("torch")
        dataset = _code(code)
        if form == "tensors":
            dataset = expression("TORCH.utils.data.TensorDataset(*CODE)", TORCH=torch, CODE=dataset)
        options = {"batch_size": "32", **(self.recipe.data_arguments or {})}
        shuffle = options.pop("shuffle", "True")
        workers = options.get("num_workers", "0")
        loader = expression("TORCH.utils.data.DataLoader(DATASET)", TORCH=torch, DATASET=dataset)
        assert isinstance(loader, ast.Call)
        if train and form != "iterable":
            options["shuffle"] = shuffle
        if workers != "0":
            options["persistent_workers"] = "True"
        loader.keywords = [ast.keyword(name, _code(value)) for name, value in options.items()]
        return loader

    def _trainer(self, under_torchrun: bool) -> ast.expr:
        """The Trainer with the arguments that matter."""
        recipe, pl = self.recipe, self._lightning
        arguments = {name: _code(code) for name, code in recipe.trainer.items()}
        if self.strategy and "strategy" not in arguments:
            arguments["strategy"] = ast.Constant(self.strategy)
        if recipe.options.get("amp"):
            arguments["precision"] = ast.Constant(self.precision)
        devices = arguments.get("devices", _code(self.devices or "1"))
        arguments["devices"] = devices
        if (
            under_torchrun
            and isinstance(devices, ast.Constant)
            and isinstance(devices.value, int)
            and devices.value > 0
        ):
            count = "int(OS.environ.get('LOCAL_WORLD_SIZE', N))"
            arguments["devices"] = expression(count, OS=self._import("os"), N=devices)  # torchrun says how many
            nodes = arguments.get("num_nodes", ast.Constant(1))
            count = "int(OS.environ.get('GROUP_WORLD_SIZE', N))"
            arguments["num_nodes"] = expression(count, OS=self._import("os"), N=nodes)
        callbacks = self._callbacks(arguments.pop("callbacks", None))
        if callbacks is not None:
            arguments["callbacks"] = callbacks
        logger = self._logger()
        if logger is not None:
            arguments["logger"] = logger
        trainer = expression("PL.Trainer()", PL=pl)
        assert isinstance(trainer, ast.Call)
        trainer.keywords = [ast.keyword(name, value) for name, value in arguments.items()]
        return trainer

    def _callbacks(self, own: ast.expr | None) -> ast.expr | None:
        """The user's callbacks, and those that options stand for."""
        options, pl = self.recipe.options, self._lightning
        callbacks: list[ast.expr] = []
        for option in options.get("early_stop") or ():
            rest, mode = metric_and_mode(option)
            metric, patience = metric_and_patience(rest)
            mode = mode or mode_of(metric, self.directions)
            patience = 3 if patience is None else patience
            text = f"PL.callbacks.EarlyStopping({metric!r}, patience={patience}, mode={mode!r})"
            callbacks.append(expression(text, PL=pl))
        if metric := self.checkpoint_metric:
            mode = mode_of(metric, self.directions)
            callbacks.append(expression(f"PL.callbacks.ModelCheckpoint(monitor={metric!r}, mode={mode!r})", PL=pl))
        if own is None:
            return ast.List(callbacks) if callbacks else None
        if isinstance(own, ast.List):
            return ast.List([*own.elts, *callbacks])
        return ast.List([ast.Starred(own), *callbacks]) if callbacks else own

    def _logger(self) -> ast.expr | None:
        """The loggers; None for Lightning's default, which is TensorBoard's."""
        loggers = self.recipe.options.get("logger")
        if loggers is None:
            return None
        expressions = []
        for logger in loggers:
            template = LOGGERS.get(logger)
            expressions.append(
                expression(template, PL=self._lightning, NAME=ast.Constant(self.name)) if template else _code(logger)
            )
        return (
            ast.Constant(False)
            if not expressions
            else expressions[0]
            if len(expressions) == 1
            else ast.List(expressions)
        )

    def _checkpoint_keywords(self) -> list[ast.keyword]:
        """What `fit` is given to go on from a checkpoint."""
        options = self.recipe.options
        return [ast.keyword("ckpt_path", ast.Constant(options["resume"]))] if options.get("resume") else []

    @property
    def _lightning(self) -> ast.expr:
        return self._import(self.recipe.package, "pl")

    def _import(self, module: str, name: str = "") -> ast.expr:
        """The name of a module, which is imported if it is not; under another name where its own is taken."""
        name = name or module
        text = f"import {module} as {name}" if name != module else f"import {module}"
        if text not in self.module.imports and name in self._module_names:
            name = self._free_name(name)
            text = f"import {module} as {name}"
        self._imports[text] = None
        return _name(name)

    def _free_name(self, name: str) -> str:
        """A name that hides none of the module's."""
        names = self._module_names
        while name in names:
            name = f"{name}_"
        return name

    @property
    def _module_names(self) -> set[str]:
        """Names of the module."""
        statements = [item for text in (*self.module.imports, *self.module.body) for item in statements_of(text)]
        return {name for statement in statements for name in statement.binds}

    def _assign(self, name: str, value: ast.expr, statements: list[ast.stmt]) -> ast.expr:
        """The name of a value, which is assigned to it; it hides none that the code has. A name stays as it is."""
        if isinstance(value, ast.Name):
            return value
        name = self._free_name(name)
        statements.append(ast.Assign([ast.Name(name, ast.Store())], value))
        return _name(name)


def _text(statements: Iterable[ast.stmt]) -> str:
    """Code of generated statements, laid out."""
    return wrap_code(ast.unparse(ast.fix_missing_locations(ast.Module(list(statements), []))))


def _code(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _construction(code: str, arguments: Mapping[str, str] | None) -> ast.expr:
    """What makes an object: a call of its class, or the code of an instance."""
    if arguments is None:
        return _code(code)
    return ast.Call(_code(code), [], [ast.keyword(name, _code(value)) for name, value in arguments.items()])


def _cell_texts(body: Sequence[str]) -> list[str]:
    """Statements as the cells of a notebook: a class or function each in one of its own."""
    cells: list[list[str]] = []
    plain = False
    for text in body:
        defines = any(isinstance(item.tree, ast.ClassDef | ast.FunctionDef) for item in statements_of(text))
        if cells and plain and not defines:
            cells[-1].append(text)
        else:
            cells.append([text])
        plain = not defines
    return ["\n".join(cell) for cell in cells]


def parse_module(source: str, missing: Mapping[str, str]) -> SourceModule:
    """The module that a run has recorded."""
    imports: list[str] = []
    body: list[str] = []
    for statement in statements_of(source):
        if statement.is_import and not body:
            imports.append(statement.text)
        else:
            body.append(statement.text)
    return SourceModule(tuple(imports), tuple(body), missing)
