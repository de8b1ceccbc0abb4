"""The magics: each parses its line, calls a function of `api`, and shows the result."""

from __future__ import annotations

import functools
import inspect
import itertools
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from traceback import walk_tb
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Literal

import traitlets
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, needs_local_scope
from IPython.display import display

from .errors import InputError
from .options import declared, parser
from .options.help import full_help, help_text
from .shell import someone_waits

if TYPE_CHECKING:
    from .commands.session import Session
    from .definitions import cell as cells
    from .definitions.definition import Definition
    from .launch.run import Run
    from .runs.dataframe import DataFrameProxy
    from .views.code import Code


def _api() -> ModuleType:
    """The functions that the magics call, imported on first use."""
    from .commands import api

    return api


def _with_local_names(magic: Callable[..., Any]) -> Callable[..., Any]:
    """Resolve names in a magic's line in the function that calls the magic."""

    @functools.wraps(magic)
    def wrapped(self: LightningMagics, *args: Any, local_ns: Mapping[str, Any] | None = None) -> Any:
        with self.session.caller_scope(local_ns):
            return magic(self, *args)

    return needs_local_scope(wrapped)


@magics_class
class LightningMagics(Magics):
    """Defaults of the magics: ``%config LightningMagics.NAME = VALUE``."""

    run_dir = traitlets.Unicode("lightning_logs", help="Folder in which run folders are created.").tag(config=True)
    refresh_s = traitlets.Float(0.25, min=0.05, help="Seconds between refreshes of the live view.").tag(config=True)
    logger = traitlets.List(
        traitlets.Enum(parser.LOGGERS), ["tensorboard"], help="Loggers of a fit without --logger."
    ).tag(config=True)
    package = traitlets.Enum(
        ["", "pytorch_lightning", "lightning.pytorch"],
        "",
        help="Lightning package for cells that import neither; if empty, the one that the notebook has imported.",
    ).tag(config=True)

    prewarm = traitlets.Bool(
        help="Whether to keep a warm process ready, so that runs in separate processes start quickly. It starts when a "
        "model is defined, or at once when this is set to True. Enabled by default in interactive sessions."
    ).tag(config=True)
    start_method = traitlets.Enum(
        declared.START_METHODS,
        declared.DEFAULT_START_METHOD,
        help="How the processes of a run start: forked from a warm process, or each as a new Python interpreter.",
    ).tag(config=True)

    slurm = traitlets.Dict(
        key_trait=traitlets.Unicode(),
        help='Default parameters of Slurm jobs, such as {"partition": "gpu", "time": 120}.',
    ).tag(config=True)
    engines = traitlets.Dict(
        key_trait=traitlets.Unicode(),
        value_trait=traitlets.Dict(key_trait=traitlets.Unicode()),
        help='Default parameters of jobs on other engines, by engine name: {"ray": {"queue": "night"}}.',
    ).tag(config=True)

    @traitlets.default("prewarm")
    def _prewarm_where_someone_waits(self) -> bool:
        return someone_waits()

    @traitlets.observe("prewarm")
    def _prewarm_now(self, change: Any) -> None:
        if change["new"]:
            self.session.prewarm(self.session.package())

    def __init__(self, shell: Any) -> None:
        self._failed: dict[int, int] = {}  # of each cell that failed, the line that it failed in
        super().__init__(shell)  # may start the warm process already, as the configuration of IPython says
        self._transform = shell.transform_cell
        self._raw_cell = ""
        self._classes: dict[str, Any] = {}  # that the cell defines anew, as they were before it
        self._numbers = itertools.count(1)
        shell.events.register("pre_run_cell", self._remember_cell)
        shell.events.register("post_run_cell", self._remember_failure)
        self._unregister = shell.events.unregister

    @functools.cached_property
    def session(self) -> Session:
        """What this shell has defined and run; created on first use, so that the extension loads quickly."""
        from .commands.session import Session

        assert self.shell is not None
        return Session(self.shell.user_ns, self, failed=self._failed)

    @line_cell_magic
    @_with_local_names
    def lightning_model(self, line: str, cell: str | None = None) -> None:
        """Turn a cell into a LightningModule, or use a class or network that another cell defined.

        The cell contains a LightningModule class; or just its hooks, as functions whose first parameter is self; or
        a network: a torch.nn expression or class, or a transformers model. Annotated assignments become
        hyperparameters. To see the generated class, type %lightning_source NAME.

        Options of %%lightning_model [NAME]:
        {options}

        Example, a cell:
            %%lightning_model Digits --loss cross_entropy --metrics accuracy --lr 1e-3
            from torch import nn
            hidden: int = 128
            nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        """
        self._define("model", line, cell, "Train it: %lightning_fit {} DATA")

    @line_cell_magic
    @_with_local_names
    def lightning_data(self, line: str, cell: str | None = None) -> None:
        """Turn a cell into a LightningDataModule, or use data that another cell created.

        The cell contains a LightningDataModule class; or just its hooks, as functions whose first parameter is self;
        or ends in an expression: a Dataset, a tuple of training, validation and test sets, a dict of splits,
        DataLoaders, tensors or a DataFrame. Text data can be files, DataFrames or lists, and needs --tokenizer or
        --vocab_size: %lightning_data films train.tsv dev.tsv --text sentence --label label --tokenizer NAME

        Options of %%lightning_data [NAME]:
        {options}

        Example, a cell:
            %%lightning_data digits --batch_size 64 --val_split 0.2
            import torch
            from sklearn.datasets import load_digits
            X, y = load_digits(return_X_y=True)
            torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
        """
        self._define("data", line, cell, "Train on it: %lightning_fit MODEL {}")

    @line_magic
    @_with_local_names
    def lightning_source(self, line: str) -> Code | None:
        """Show the generated code of a model or of data: plain Lightning, exactly as it is run.

        Example:
            %lightning_source Digits
        """
        parsed = self._parse("source", line)
        return None if parsed is None else _api().source(" ".join(parsed.positional))

    @line_magic
    @_with_local_names
    def lightning_fit(self, line: str) -> Run | None:
        """Train a model and return the run.

        Every argument of Trainer is also an option (--max_epochs 3, --precision bf16-mixed), and --model.NAME and
        --data.NAME set constructor arguments. A value can be any Python expression. For descriptions of all options,
        type %lightning_fit --help-all. To train on a Slurm cluster, use --nodes N --cluster slurm and options such as
        --slurm.partition NAME. Interrupt the kernel once to stop after the current batch and keep the weights, twice
        to stop immediately.

        Options of %lightning_fit MODEL [DATA ...]:
        {options}

        Example:
            run = %lightning_fit Digits digits --max_epochs 5 --early_stop val_loss:3 --model.hidden 256
        """
        return self._run_verb("fit", line)

    @line_magic
    @_with_local_names
    def lightning_validate(self, line: str) -> Run | None:
        """Validate a trained model: a run, an instance, or the name of a model trained in this session.

        Options of %lightning_validate MODEL|RUN [DATA ...], in addition to the arguments of Trainer:
        {options}

        Example:
            %lightning_validate Digits digits
        """
        return self._run_verb("validate", line)

    @line_magic
    @_with_local_names
    def lightning_test(self, line: str) -> Run | None:
        """Test a trained model: a run, an instance, or the name of a model trained in this session.

        Options of %lightning_test MODEL|RUN [DATA ...], in addition to the arguments of Trainer:
        {options}

        Example:
            %lightning_test Digits digits
        """
        return self._run_verb("test", line)

    @line_magic
    @_with_local_names
    def lightning_predict(self, line: str) -> Run | None:
        """Predict with a trained model; the predictions, in input order, are in run.predictions or the variable of -o.

        A model trained on text data also takes sentences, and shows the label and the probabilities of each:
        %lightning_predict Sentiment "a warm and moving film"

        Options of %lightning_predict MODEL|RUN [DATA ...], in addition to the arguments of Trainer:
        {options}

        Example:
            %lightning_predict Digits digits -o preds
        """
        run = self._run_verb("predict", line)
        from .views.answers import Answers

        if run is not None and run.status == "completed" and isinstance(run.predictions, Answers):
            display(run.predictions)  # type: ignore[no-untyped-call]
        return run

    @line_magic
    @_with_local_names
    def lightning_runs(self, line: str) -> DataFrameProxy | None:
        """List the runs in the run folder with their current status, newest first.

        PATTERN is part of a run's name, or contains *: Digits/version_1*. The result is displayed as a table and can
        be used like a pandas DataFrame: runs.sort_values("val_loss"). Runs written by plain Lightning are included.
        --delete does not ask for confirmation; --keep only lists what it would delete until --yes is added. A run
        in progress is never deleted.

        Options of %lightning_runs [PATTERN]:
        {options}

        Example:
            %lightning_runs Digits --sort val_accuracy --plot val_loss
        """
        parsed = self._parse("runs", line)
        return None if parsed is None else _api().list_runs(" ".join(parsed.positional), **parsed.options)

    @line_magic
    @_with_local_names
    def lightning_attach(self, line: str) -> Run | None:
        """Show the live view of a run in the background, wherever it was started, and return the run.

        RUN is a name as listed by %lightning_runs, a folder, or last.

        Example:
            run = %lightning_attach Digits/version_3
        """
        parsed = self._parse("attach", line)
        return None if parsed is None else _api().attach(self._run_argument(parsed, "attach"))

    @line_magic
    @_with_local_names
    def lightning_stop(self, line: str) -> None:
        """Stop a run in the background after the current batch, and save its state.

        Options of %lightning_stop RUN:
        {options}

        Example:
            %lightning_stop Digits/version_3
        """
        parsed = self._parse("stop", line)
        if parsed is not None:
            print(_api().stop(self._run_argument(parsed, "stop"), **parsed.options))  # noqa: T201 -- the cell's answer

    @line_magic
    @_with_local_names
    def lightning_load(self, line: str) -> Any:
        """Load the model of a run with its weights, even in a new kernel, and return the model.

        The source code that the run recorded is executed in a separate namespace. The model and its data are then
        available by name to %lightning_fit, %lightning_validate and %lightning_predict.

        Options of %lightning_load RUN:
        {options}

        Example:
            net = %lightning_load Digits/version_3 --checkpoint best
        """
        parsed = self._parse("load", line)
        return None if parsed is None else _api().load(self._run_argument(parsed, "load"), **parsed.options)

    @line_magic
    @_with_local_names
    def lightning_rerun(self, line: str) -> Run | None:
        """Repeat a fit from its record, show both results side by side, and return the new run.

        Takes every option of %lightning_fit; options that you type replace the recorded ones.

        Options of %lightning_rerun RUN, in addition to the arguments of Trainer:
        {options}

        Example:
            again = %lightning_rerun Digits/version_3 --max_epochs 10 --model.hidden 64
        """
        parsed = self._parse("rerun", line)
        if parsed is None:
            return None
        run: Run = _api().rerun(self._run_argument(parsed, "rerun"), **parsed.arguments)
        return run

    @line_magic
    @_with_local_names
    def lightning_export(self, line: str) -> None:
        """Write a run as a plain Lightning script, which does not need this package.

        Run it with python FILE or torchrun FILE: it trains and prints the final metrics. For a MODEL that has not
        been trained, the script trains it on DATA.

        Options of %lightning_export RUN|MODEL [DATA] FILE:
        {options}

        Example:
            %lightning_export Digits/version_3 train.py
        """
        parsed = self._parse("export", line)
        if parsed is not None:
            path = _api().export(self._run_argument(parsed, "export"), *parsed.positional[1:], **parsed.options)
            run_it = f"jupyter execute --inplace {path}" if path.suffix == ".ipynb" else f"python {path}"
            print(f"Wrote {path}. Run it: {run_it}")  # noqa: T201 -- the cell's answer

    @line_magic
    @_with_local_names
    def lightning_board(self, line: str) -> None:
        """Show TensorBoard below the cell: for all runs, for the named ones, or for a folder.

        RUN is a name as listed by %lightning_runs, a folder, or last; DIR is a folder of event files. The server
        accepts connections from this machine only, and shuts down with the kernel.

        Options of %lightning_board [RUN ...|DIR]:
        {options}

        Example:
            %lightning_board Digits/version_3 Digits/version_4 --height 600
        """
        parsed = self._parse("board", line)
        if parsed is not None:
            _api().board(*parsed.positional, **parsed.options)

    def _run_argument(self, parsed: parser.ParsedLine, verb: str) -> str:
        """The run that a line names."""
        if not parsed.positional:
            raise InputError(f"%lightning_{verb} takes a run; found none. To list runs: %lightning_runs")
        if len(parsed.positional) > 1 and verb != "export":
            raise InputError(f"%lightning_{verb} takes one run; found {' '.join(parsed.positional)!r}")
        return parsed.positional[0]

    def _parse(self, verb: parser.Verb, line: str) -> parser.ParsedLine | None:
        """Parse a line; None when it asked for help, which is shown."""
        parsed = parser.parse(verb, line.rstrip().removesuffix(";"))  # as after any line that is to show nothing
        if not parsed.options.keys() & {"help", "help_all"}:
            return parsed
        print(full_help(verb, everything="help_all" in parsed.options))  # noqa: T201 -- asked for
        return None

    def _define(self, kind: Literal["model", "data"], line: str, cell: str | None, advice: str) -> None:
        """Define a model or data by a cell, or by what a line names, and show it with what to type next."""
        first = next(iter(line.split()), "")
        with self.session.defining(kind, first if first.isidentifier() else None, cell or ""):
            parsed = self._parse(kind, line)
            if parsed is None:
                return
            source = self._source(kind, parsed.positional, cell)
        name = parsed.positional[0] if parsed.positional else None
        definition: Definition = getattr(_api(), f"define_{kind}")(name, source, **parsed.options)
        summary = f"\n{definition.summary}" if definition.summary else ""
        print(f"{signature(definition)}. {advice.format(definition.name)}{summary}")  # noqa: T201 -- the cell's answer

    def _source(self, kind: str, words: Sequence[str], cell: str | None) -> Any:
        """What a magic turns into a definition: the cell, or else what the line names."""
        if cell is None and not words:
            raise InputError(f"%lightning_{kind} takes the name of an object defined in another cell; found none")
        if cell is None:
            return self.session.definition_source(words, kind)
        if words[1:]:
            raise InputError(f"%%lightning_{kind} takes one name; found {' '.join(words)!r}")
        return self._cell_source(cell, f"<lightning_{kind} {next(self._numbers)}>")

    def _cell_source(self, cell: str, otherwise: str) -> cells.CellSource:
        """A cell's body and its place; `otherwise` names the file where no cell can be told."""
        from .definitions import cell as cells

        blank = cell[: len(cell) - len(cell.lstrip())].count("\n")
        text = "\n" * blank + self._transform(cell)  # its own % and ! lines; IPython drops the blank ones above
        return cells.CellSource(text, running_cell() or otherwise, body_line(self._raw_cell, cell))

    def _remember_cell(self, info: Any) -> None:
        from .definitions.cell import class_names

        self._raw_cell = info.raw_cell or ""
        names = self.shell.user_ns if self.shell is not None else {}
        self._classes = {name: names[name] for name in class_names(self._raw_cell) if name in names}
        if "session" in vars(self):
            self.session.interrupted = False

    def _remember_failure(self, result: Any) -> None:
        """What a cell would have run after the line that failed is no part of the notebook's history."""
        traceback = getattr(result.error_in_exec, "__traceback__", None)
        if self.shell is not None and not result.success:
            names = self.shell.user_ns
            unchanged = {name: cls for name, cls in self._classes.items() if names.get(name) is cls}
            if unchanged:
                self.session.outdated.update(unchanged)
        if result.execution_count is None or self.shell is None:
            return
        for frame, line in walk_tb(traceback):
            if frame.f_code.co_name == "<module>" and frame.f_globals is self.shell.user_ns:
                self._failed[result.execution_count] = line
                return

    def unload(self) -> None:
        """Take out what this object put into the shell, and end the processes that serve it."""
        from .launch import start
        from .views.board import servers

        start.close()
        servers.close()
        self._unregister("pre_run_cell", self._remember_cell)
        self._unregister("post_run_cell", self._remember_failure)

    def _run_verb(self, verb: parser.Verb, line: str) -> Run | None:
        parsed = self._parse(verb, line)
        if parsed is None:
            return None
        if not parsed.positional:
            known = ", ".join(self.session.models) or "none yet; see %%lightning_model?"
            raise InputError(
                f"%lightning_{verb} takes a model; found none. Type %lightning_{verb} MODEL. Defined: {known}"
            )
        output = parsed.options.pop("output", None)
        if output in self.session.local_names:
            raise InputError(
                f"-o {output} cannot set a local variable of a function. Type {output} = %lightning_{verb} …, then "
                f"{output}.predictions"
            )
        run: Run = getattr(_api(), verb)(*parsed.positional, **parsed.arguments)
        if output is not None:
            self.session.namespace[output] = run.predictions
        return run


for _verb in (*parser.RUNNING, "model", "data", "runs", "stop", "board", "load", "export"):
    _magic = getattr(LightningMagics, f"lightning_{_verb}")
    _table = help_text(_verb).replace("\n", "\n        ")
    _magic.__doc__ = _magic.__doc__.replace("{options}", _table)


def signature(definition: Definition) -> str:
    """A definition in a line, with the hyperparameters that can be given: ``Digits(hidden=128, lr=0.001)``."""
    items = inspect.signature(definition.cls).parameters.values()
    shown = [item.name if item.default is item.empty else f"{item.name}={item.default!r}" for item in items]
    return f"{definition.name}({', '.join(shown)})"


def body_line(raw_cell: str, body: str) -> int:
    """The line of a cell that the body of its magic begins at; 2 where the magic was not called by that cell."""
    lines = raw_cell.splitlines(keepends=True)
    first = next((place for place, line in enumerate(lines) if line.strip()), 0)
    return first + 2 if "".join(lines[first + 1 :]).strip() == body.strip() else 2


def running_cell() -> str | None:
    """The name under which the cell that runs now is compiled: what debuggers and tracebacks call it.

    None where a magic of ours was not called by a cell of its own.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        text = "".join(linecache.getlines(frame.f_code.co_filename))
        if frame.f_code.co_name == "<module>" and text.startswith("get_ipython().run_cell_magic('lightning_"):
            return frame.f_code.co_filename
        frame = frame.f_back
    return None
