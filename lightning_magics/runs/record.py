"""What a run's record holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..scores import Mode
from . import events

FORMAT = 1


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds: how a run was asked for, where it ran, how it ended.

    Attributes:
        run: name, ``Digits/version_3``.
        verb: fit, validate, test or predict.
        model: name or class of the model; `data` likewise.
        status: running, completed, interrupted or failed.
        started: Unix time in seconds; `elapsed_s` the seconds that it took, once it has ended.
        options: what was asked for, as given.
        trainer: the Trainer's arguments as resolved, objects by their ``repr``.
        hyperparameters: the model's, as ``save_hyperparameters()`` kept them.
        data_hyperparameters: of a fit, those of its data that changed during it, such as a batch size.
        seed: of ``--seed``, or None.
        recipe: of a fit, how it was put together: see `recipe.Recipe`; empty for the other verbs.
        fingerprint: of a fit, what its data and its initial weights were: ``train``, ``val``, ``weights``, see
            `fingerprint`.
        versions: package name to version.
        hardware: machine, processor and number of torch's threads.
        git: commit of the working directory and whether it was dirty, where it is a repository.
        devices: what it ran on; `precision` Lightning's name of how.
        epochs: training epochs completed in the model's life; `steps` the global step, of its optimizers.
        metrics: last value of every metric.
        best_metrics: of a fit, the best value of every metric and its epoch (from 0), as ``value`` and ``epoch``;
            the earlier of equals.
        doubles: last values that Lightning has under a second name, see `events.Metrics`.
        directions: metric to ``min`` or ``max``: whether its smallest or its largest value is the best.
        checkpoint_metric: of a fit, the metric of the best checkpoint that options stand for; empty where the user's
            own callbacks keep checkpoints, or none chooses the best.
        results: of validate and test, a row for each dataloader, metric to value.
        best_model_path: best checkpoint; `best_model_score` its monitored value.
        checkpoints: those in the run's folder once it has ended, relative to it, the oldest first.
        reason: why it ended, empty if plain.
        error: type and message of the exception of a failed run.
        pid: process that trains; `host` its machine.
        format: version of this layout.
    """

    run: str
    verb: events.Verb
    model: str
    status: events.Status
    started: float
    data: str = ""
    elapsed_s: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    data_hyperparameters: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=dict)
    devices: str = ""
    precision: str = ""
    epochs: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    doubles: dict[str, float] = field(default_factory=dict)
    directions: dict[str, Mode] = field(default_factory=dict)
    checkpoint_metric: str = ""
    results: list[dict[str, float]] = field(default_factory=list)
    best_model_path: str = ""
    best_model_score: float | None = None
    checkpoints: list[str] = field(default_factory=list)
    reason: str = ""
    error: str = ""
    pid: int = 0
    host: str = ""
    format: int = FORMAT
