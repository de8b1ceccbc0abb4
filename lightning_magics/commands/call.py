"""One call of fit, validate, test or predict: its arguments are checked, then it runs.

The functions that users call are in `api`, what the arguments mean in `model_argument` and `data_argument`; how a run
goes is in `launch/kernel` and `launch/spawned`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import clusters, formats
from ..definitions.definition import has_base
from ..errors import InputError, RunError, short_traceback
from ..launch import placement
from ..launch.kernel import run_in_kernel
from ..launch.placement import LaunchPlan
from ..launch.run import Run
from ..launch.setup import recording_errors, remove_unless_begun
from ..launch.spawned import SpawnedRun, run_in_processes
from ..launch.stop_from_outside import ask_to_stop
from ..options import parser
from ..replay.closure import SourceModule
from ..replay.recipe import Recipe, RecipeWriter
from ..runs import columns, events, provenance
from ..runs import folder as runs
from ..runs.record import RunRecord
from ..training import main_module
from ..training.job import Job
from ..views.answers import answers
from ..views.board import frame, servers
from ..views.view import open_view
from . import sample_checks
from .alignment import Alignment
from .data_argument import Data, names_of, resolve_data
from .model_argument import Subject, resolve_model
from .session import Session, current

if TYPE_CHECKING:
    from ..runs.randomness import RandomState


@dataclass(frozen=True)
class Call:
    """One call of fit, validate, test or predict.

    Attributes:
        random: of a fit that runs once more, the random state that it began with.
        table: of a fit of an instance that runs once more, what its data was matched to: the instance may have been
            trained before, and is not when it is made again.
        weights: of a fit that runs once more, where the weights are that it began with, if its folder has them.
        remade: whether that fit was of an instance, in whose place one is made of its class.
    """

    verb: events.Verb
    session: Session
    options: Any
    trainer: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    random: RandomState | None = None
    table: columns.TableSchema | None = None
    weights: Path | None = None
    remade: bool = False

    @classmethod
    def of(cls, verb: events.Verb, arguments: Mapping[str, Any]) -> Call:
        """Sort keyword arguments into the verb's own options, the Trainer's, and hyperparameters."""
        arguments = dict(arguments)
        groups = {name: arguments.pop(name, None) or {} for name in ("model", "data")}
        named_engines = {
            name for name, value in arguments.items() if isinstance(value, Mapping) and clusters.is_engine(name)
        }
        engines = {*clusters.BUILT_IN, *filter(None, [arguments.get("cluster")]), *named_engines} - groups.keys()
        groups |= {name: arguments.pop(name, None) or {} for name in engines}
        for name, value in groups.items():
            if not isinstance(value, Mapping):
                kind = "parameters" if name in engines else "hyperparameters"
                raise InputError(f"{name}= takes a dict of {kind}; found a {type(value).__name__}")
        parser.check_names(verb, arguments)
        own_values = {name: value for name, value in arguments.items() if name in parser.own_options(verb)}
        trainer = {name: value for name, value in arguments.items() if name not in own_values}
        own_options, session = parser.make(verb, own_values), current()
        placement.check_cluster(
            own_options.cluster, own_options.nodes, {name: groups[name] for name in engines if groups[name]}
        )
        parameters = {}
        if own_options.cluster:
            settings = session.engine_settings(own_options.cluster)
            parameters = clusters.engine(own_options.cluster).defaults(settings, groups.get(own_options.cluster, {}))
        return cls(verb, session, own_options, trainer, groups["model"], groups["data"], parameters)

    def start(self, net: Any, datas: Sequence[Any]) -> Run:
        """Check everything, make the instances and the folder, and run.

        Seeded, in the order of a script: the model, then the data, then the Trainer.
        """
        from ..definitions import matching
        from ..definitions.data import sentences
        from ..definitions.model import fine_tuning
        from ..runs.randomness import RandomState
        from ..training.trainer import amp_notice, trainer_class

        with short_traceback(), self.exclusive_run(), self.initial_random_state():
            random_state = RandomState.capture() if self.verb == "fit" and self.options.seed is None else None
            subject = resolve_model(self.session, self.verb, net, self.model)
            checkpoint = self.checkpoint_of(subject)
            knowledge = subject.knowledge.of_checkpoint(checkpoint, trusted=not self.options.weights_only)
            subject = dataclasses.replace(subject, checkpoint=checkpoint, knowledge=knowledge)
            if self.table is not None and not knowledge.origin.is_known:
                knowledge.origin.table = self.table
            trainer = parser.check_trainer(trainer_class(subject.package), self.trainer, self.session.scope)
            trainer, plan = self.plan(trainer, subject.package)
            with fine_tuning.quiet_transformers():
                model = self.make_model(subject)
            data = resolve_data(self.session, self.verb, datas, self.data, subject)
            datamodule, loaders = data.make()
            if datamodule is not None:
                alignment = Alignment(self.verb, subject.name, subject.knowledge)
                alignment.align_datamodule(datamodule, data.name or type(datamodule).__name__)
                data = dataclasses.replace(data, notices=data.notices + alignment.notices, table=alignment.table)
            encoding = subject.knowledge.encoding if sentences.is_of_texts(datamodule) else None
            notices = (
                self.outdated_notices(subject, data)
                + subject.weights_notice(self.verb)
                + data.notices
                + subject.knowledge.notices(subject.name)
            )
            if self.options.amp and self.options.cluster is None:
                notices += amp_notice(trainer)
            classes = tuple(data.table.classes) if data.table is not None else ()
            names = subject.name, data.name
            if datamodule is not None or self.verb != "predict":
                notices += matching.check(model, datamodule, *names, encoding, classes, trains=self.verb == "fit")
            loader_names = (
                names_of([item.original for item in data.arguments]) if len(data.arguments) == len(loaders) else []
            )
            notices += sample_checks.check(self.verb, model, datamodule, loaders, names, loader_names, data.table)
            if self.verb == "predict" and data.read is None:
                data = dataclasses.replace(data, read=sentences.answers_reader(datamodule, answers))
            job = Job(self.verb, Path(), subject.package, model, trainer, datamodule, loaders, amp=self.options.amp)
            job = dataclasses.replace(job, compiler=subject.compiler, notices=notices, classes=classes)
            if self.verb == "fit":
                job = self.complete_fit_job(job, subject.checkpoint)
                fine_tuning.check_trains(model)
                if job.loggers:
                    matching.check_hyperparameters(model, datamodule, subject.name, data.name)
            elif subject.checkpoint is not None:
                job = self.with_checkpoint(job, subject.checkpoint)
            with main_module.main_definitions(model, datamodule):
                return self.run(job, subject, data, plan, random_state)

    def make_model(self, subject: Subject) -> Any:
        """The model; for a rerun, with the initial weights of that fit.

        Raises:
            RunError: these do not fit it.
        """
        from ..runs.randomness import preserve_random_state
        from ..training.checkpoints import load_weights

        with (
            preserve_random_state() if self.remade else contextlib.nullcontext()
        ):  # the instance was made before its fit
            model = subject.make()
        if self.weights is None:
            return model
        try:
            with preserve_random_state():
                load_weights(model, self.weights)
        except Exception as error:  # whatever torch raises at a file that is another one
            raise RunError(
                f"the initial weights in {runs.display_path(self.weights)} do not fit {subject.name} as defined in its "
                f"source: {formats.clip(' '.join(str(error).split()), 200)}. Delete the file to start with new weights"
            ) from error
        return model

    @contextlib.contextmanager
    def initial_random_state(self) -> Iterator[None]:
        """Apply the random state of ``--seed``, or of the fit that is rerun; otherwise the notebook's own."""
        from ..runs.randomness import preserve_random_state
        from ..training.numerics import seeded

        if self.random is None or self.options.seed is not None:
            with seeded(self.session.package(), self.options.seed):
                yield
            return
        with preserve_random_state():
            self.random.take_up()
            yield

    def plan(self, trainer: dict[str, Any], package: str) -> tuple[dict[str, Any], LaunchPlan | None]:
        """Trainer's arguments, and how the run's processes are started; None for the kernel itself.

        Raises:
            InputError: the devices that were asked for are not there.
        """
        options = self.options
        if options.cluster is not None:
            return self.on_cluster(trainer, package)
        if options.ddp:
            trainer = placement.with_ddp(trainer, options.ddp, package)
        if not options.background and not placement.needs_processes(trainer, package):
            return trainer, None
        ranks = placement.processes(trainer, package)
        trainer = placement.with_resolved_devices(trainer, package)
        if ranks == 1:
            trainer.setdefault("use_distributed_sampler", False)  # the order of the data is then the kernel's
        return trainer, LaunchPlan(ranks, options.background, self.session.settings.start_method)

    def on_cluster(self, trainer: dict[str, Any], package: str) -> tuple[dict[str, Any], LaunchPlan]:
        """The same for ranks on the nodes of a cluster, each of which has the same number.

        Raises:
            InputError: the cluster cannot give what is asked for.
        """
        options = self.options
        engine = clusters.engine(options.cluster)
        try:
            trainer, resources = placement.on_cluster(trainer, package, engine, self.engine, options.nodes, options.ddp)
        except InputError as error:
            settings = self.session.engine_settings(engine.name)
            if not any(str(error).startswith(f"--{engine.name}.{name} ") for name in settings):
                raise
            setting = "slurm" if engine.name == "slurm" else "engines"
            raise InputError(f"{error}. It may come from %config LightningMagics.{setting}") from None
        ranks = resources.nodes * resources.processes
        return trainer, LaunchPlan(ranks, options.background, self.session.settings.start_method, resources)

    @contextlib.contextmanager
    def exclusive_run(self) -> Iterator[None]:
        """Allow one run at a time, apart from those it starts itself, and no further fit in an interrupted cell.

        Raises:
            InputError: another thread runs one.
            KeyboardInterrupt: a fit of this cell was interrupted: a loop of fits ends with it.
        """
        session = self.session
        if not session.busy.acquire(blocking=False):
            name = session.last.name if session.last else "another run"
            raise InputError(f"{name} is running in another thread of this kernel. Wait for it, or stop it: run.stop()")
        try:
            if self.verb == "fit" and session.interrupted:
                raise KeyboardInterrupt
            yield
        finally:
            session.busy.release()

    def run(
        self, job: Job, subject: Subject, data: Data, plan: LaunchPlan | None, random_state: RandomState | None
    ) -> Run:
        """Make the run folder, which tells the random state of a fit without a seed, and run the job in it."""
        from ..definitions.data import sentences
        from ..training import checkpoints

        settings = self.session.settings
        recipe, module = self.recipe(job, subject, data) if self.verb == "fit" else (None, SourceModule())
        removed = main_module.drop_unpicklable(job.model)
        job = dataclasses.replace(job, notices=(*job.notices, *removed))
        record = self.record(job, subject, data)
        if recipe is not None:
            record = dataclasses.replace(record, recipe=dataclasses.asdict(recipe))
        root = Path(job.trainer.get("default_root_dir") or "") / Path(settings.run_dir).expanduser()
        board = self.board(job, root)
        folder = runs.create(root, subject.name, self.verb, record)
        with remove_unless_begun(folder):
            job = dataclasses.replace(job, folder=folder.path)
            record = dataclasses.replace(record, run=folder.name)
            sources = {folder.source_path: module.text if module.body or module.imports else ""}
            if random_state is not None:
                sources[folder.random_path] = random_state.text
            background = plan is not None and plan.background
            shows_none = self.options.quiet or background
            for text in (*self.outdated_notices(subject, data), *removed) if shows_none else ():
                print(text)  # noqa: T201 -- the numbers depend on it
            if board is not None:
                frame.show_soon(dataclasses.replace(board, run=folder.name if "tensorboard" in job.loggers else ""))
            view = open_view(
                quiet=self.options.quiet,
                refresh_s=settings.refresh_s,
                log_dir=runs.display_path(folder.path),
                on_stop=functools.partial(ask_to_stop, folder) if background else None,
                background=background,
            )
            run = Run(folder, record, view.state, job) if plan is None else SpawnedRun(folder, record, view, job)
            run._reading, run.table, run.texts = data.read, data.table, data.texts
            if self.verb == "fit":
                with recording_errors(folder):
                    sentences.save_encoding(folder, job.datamodule)
                    columns.save_schema(folder, data.table)
                    if self.keeps_weights(job, subject):
                        checkpoints.save_weights(job.model, folder.initial_weights_path)
            try:
                if isinstance(run, SpawnedRun) and plan is not None:
                    run_in_processes(run, plan, sources, self.session.note_started, self.session.note_ended)
                else:
                    run_in_kernel(job, run, view, sources, self.session.note_started)
            finally:
                if not background:
                    self.session.note_ended(run)
                    self.session.interrupted |= self.verb == "fit" and run.status == "interrupted"
            return run

    def keeps_weights(self, job: Job, subject: Subject) -> bool:
        """Whether the folder of a fit keeps its initial weights: nothing else records those of an instance."""
        trainer = job.trainer
        keeps_none = trainer.get("enable_checkpointing") is False or trainer.get("barebones")
        # A definition may copy a network of the notebook.
        copies = "deepcopy(" in getattr(subject.argument.value, "source", "")
        is_instance = subject.instance is not None or copies or self.remade
        return is_instance and job.checkpoint is None and not (keeps_none or _continues(job))

    def board(self, job: Job, root: Path) -> frame.BoardRequest | None:
        """The board of a fit, if one was requested.

        Raises:
            InputError: there is nothing that it could show, or no TensorBoard.
        """
        if self.verb != "fit" or not self.options.board:
            return None
        servers.check_installed()
        for logger in () if job.trainer.get("barebones") else job.loggers:
            if logger == "tensorboard":
                return frame.BoardRequest(servers.BoardSource.of_folder(root), self.board_command(root))
            if has_base(logger, "TensorBoardLogger"):
                folder = Path(logger.save_dir)
                return frame.BoardRequest(servers.BoardSource.of_folder(folder), self.board_command(folder))
        raise InputError("--board needs the TensorBoard logger, which this fit does not use. Add --logger tensorboard")

    def board_command(self, folder: Path) -> str:
        """The line that shows the board of a folder again."""
        usual = Path(self.session.settings.run_dir).expanduser()
        return "%lightning_board" if folder == usual else f"%lightning_board {shlex.quote(str(folder))}"

    def outdated_notices(self, subject: Subject, data: Data) -> tuple[str, ...]:
        """Name the definitions in use whose newer cells failed, and what they use of a loaded run."""
        notices = [self.session.is_outdated("model", subject.argument.value)]
        notices += [self.session.is_outdated("data", item.value) for item in data.arguments]
        if self.session.rerun_source is None:
            notices += [self.session.loaded_notice(item.value) for item in (subject.argument, *data.arguments)]
        return tuple(filter(None, notices))

    def complete_fit_job(self, job: Job, checkpoint: Path | None) -> Job:
        """Complete a fit's job: what it continues, its loggers, its callbacks by option."""
        options, settings = self.options, self.session.settings
        loggers = settings.logger if options.logger is None else options.logger
        job = dataclasses.replace(
            job,
            early_stop=options.early_stop,
            monitor=options.monitor,
            loggers=tuple(parser.resolve_loggers(tuple(loggers), self.session.scope)),
            weights_only=self.only_tensors(checkpoint),
        )
        if options.resume is None:
            return dataclasses.replace(job, continues=True)
        return dataclasses.replace(job, checkpoint=checkpoint)

    def checkpoint_of(self, subject: Subject) -> Path | None:
        """The checkpoint that is asked for, by ``--resume`` or ``--ckpt_path``; None where none is.

        Raises:
            InputError: there is no such checkpoint.
            RunError: there is no such run.
        """
        if self.verb == "fit":
            resume = self.options.resume
            if resume is None or str(resume).lower() in ("none", "false"):
                return None
            return self.find_checkpoint(resume, subject.name)
        ckpt_path = self.options.ckpt_path
        if ckpt_path is None:
            return None
        text = ckpt_path if ckpt_path == "best" or os.path.isfile(ckpt_path) else self.session.text(ckpt_path)
        run = subject.run
        path = Path(run.best_model_path if run is not None and str(text) == "best" else text)
        if run is not None and str(text) == "best" and run.folder.is_removed():
            raise InputError(
                f"--ckpt_path best: the run folder {runs.display_path(run.folder.path)} was removed or renamed. "
                "Type --ckpt_path PATH"
            )
        if not os.path.isfile(path):
            raise InputError(
                f"--ckpt_path {ckpt_path}: there is no checkpoint {runs.display_path(path)}. "
                f"Type --ckpt_path PATH, or best after a fit with --monitor METRIC"
            )
        return path

    def with_checkpoint(self, job: Job, checkpoint: Path) -> Job:
        """Let an evaluation take its weights from a checkpoint; the model that was given keeps its own."""
        return dataclasses.replace(
            job, model=copy.deepcopy(job.model), checkpoint=checkpoint, weights_only=self.only_tensors(checkpoint)
        )

    def only_tensors(self, checkpoint: Path | None) -> bool:
        """Whether a checkpoint is read without what runs code: this session's own needs no option for that."""
        from ..training import trust

        is_trusted = checkpoint is not None and trust.is_own_with_objects(checkpoint)
        return bool(self.options.weights_only) and not is_trusted

    def find_checkpoint(self, resume: Any, model: str) -> Path:
        """Find the checkpoint to resume from.

        Raises:
            InputError: there is none.
            RunError: no such run.
        """
        root = self.session.settings.run_dir
        variable = self.session.scope.get(str(resume))
        run = resume if isinstance(resume, Run) else self.session.find_run(resume)
        if resume == "last":
            run = self.session.fits.get(model)
        elif run is None and isinstance(variable, Run):
            run = variable
        for path in (str(resume), str(self.session.text(resume))):
            if run is None and os.path.isfile(path):
                return Path(path)
        if run is not None:
            folder = run.folder
        else:
            folder = runs.latest(root, model) if resume == "last" else runs.find(root, str(self.session.text(resume)))
        checkpoint = folder.newest_checkpoint()
        if checkpoint is None:
            others = [fit for fit in runs.fits_of(root, model) if fit.newest_checkpoint() is not None]
            raise InputError(
                f"--resume {resume}: the run {folder.name} has no checkpoint in {folder.checkpoints_path}"
                + (f". Type --resume {others[0].name}, which has one" if others else "")
            )
        return checkpoint

    @property
    def own_options(self) -> dict[str, Any]:
        """The verb's own options that were set."""
        options = vars(self.options).items()
        return {name: value for name, value in options if value is not None and value is not False and value != ()}

    @property
    def nested_arguments(self) -> dict[str, dict[str, Any]]:
        """What was given to constructors, and to a cluster."""
        engine = {self.options.cluster: dict(self.engine)} if self.engine else {}
        return {"model": dict(self.model), "data": dict(self.data), **engine}

    def recipe(self, job: Job, subject: Subject, data: Data) -> tuple[Recipe, SourceModule]:
        """How a fit was put together, and the source that it needs; a fit does not fail for this."""
        try:
            writer = RecipeWriter(*self.session.history(), self.session.local_names)
            writer.add_model(subject.argument, job.package, trained=_continues(job), remade=self.remade)
            writer.add_data(data.arguments, data.forms)
            if data.arguments:
                writer.add_classes(job.datamodule, data.arguments[0])
                writer.add_table(job.datamodule)
                writer.add_outputs(job.model, job.datamodule)
            writer.add_hyperparameters(job.model, job.datamodule)
            writer.add_trainer(self.trainer, job.trainer)
            options = {
                name: value for name, value in self.own_options.items() if name not in ("quiet", "background", "resume")
            }
            options |= {"resume": str(job.checkpoint)} if job.checkpoint is not None else {}
            options |= {"logger": ()} if self.options.logger == () else {}
            options |= {self.options.cluster: provenance.json_values(dict(self.engine))} if self.engine else {}
            options |= {} if job.weights_only else {"weights_only": False}
            writer.add_options(options)
            return writer.result()
        except Exception as error:  # whatever the user's objects raise when they are looked at
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Recipe(missing={subject.name: f"its source could not be collected: {reason}"}), SourceModule()

    def record(self, job: Job, subject: Subject, data: Data) -> RunRecord:
        """The run's record, as far as it is known before the start."""
        from ..training.trainer import trainer_defaults

        trainer = {**trainer_defaults(job.package), **job.trainer}
        if self.verb == "fit":
            trainer["logger"] = list(job.loggers)
        return RunRecord(
            run="",
            verb=self.verb,
            model=subject.name,
            data=data.name,
            status="running",
            started=time.time(),
            options=provenance.json_values({**self.own_options, **self.trainer, **self.nested_arguments}),
            trainer=provenance.json_values(trainer),
            hyperparameters=provenance.json_values(dict(getattr(job.model, "hparams", {}))),
            seed=self.options.seed,
            versions=provenance.versions(job.package),
            hardware=provenance.hardware(),
            git=provenance.git(),
        )


def _continues(job: Job) -> bool:
    """Whether a fit continues the one that its instance has behind it."""
    from ..training.train import was_fitted

    return job.continues and was_fitted(job.model)
