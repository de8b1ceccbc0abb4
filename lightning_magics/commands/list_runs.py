"""Lists, compares and deletes runs: checks the options and finds the runs that they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, RunError
from ..launch.run import Run
from ..options import parser
from ..runs import catalog, removal
from ..runs.dataframe import DataFrameProxy
from ..views.comparison import Comparison
from ..views.listing import Listing
from .session import Session, current


def list_runs(pattern: str = "", **options: Any) -> DataFrameProxy:
    """List, compare or delete runs; ``%lightning_runs`` from Python.

    Args:
        pattern: part of a run's name, or a pattern with ``*``; all runs if empty.
        options: the options of ``%lightning_runs``: `model`, `sort`, `plot`, `compare`, `delete`, `keep` and `yes`.
            Runs are names, or `Run` objects.

    Returns:
        The runs: their `rows`, their DataFrame `df`, and their own display. After a deletion, the remaining runs.

    Raises:
        InputError: there is no such model or metric, or the options cannot be combined.
        RunError: there is no such run, or it may not be deleted; then none is deleted.
    """
    session, parsed = current(), parser.make("runs", options)
    parsed = dataclasses.replace(
        parsed,
        model=session.text(parsed.model),
        sort=_metric_name(session, parsed.sort),
        plot=_metric_name(session, parsed.plot),
    )
    root = Path(session.settings.run_dir).expanduser()
    _check_combination(pattern, parsed)
    if parsed.compare:
        return Comparison(root, [row.run for row in _selected_rows(session, root, parsed.compare)])
    if parsed.delete:
        print(removal.delete(root, _selected_rows(session, root, parsed.delete)))  # noqa: T201 -- the cell's answer
        return Listing(root)
    listing = Listing(root, pattern, parsed.model or "", parsed.sort or "", parsed.plot or "")
    if parsed.keep is None:
        return listing
    fit_rows = [row for row in listing.rows if row.record is not None and row.record.verb == "fit"]
    fit_rows = [row for row in fit_rows if not parsed.sort or parsed.sort in row.best]
    surplus = [row for row in fit_rows if not removal.deletion_problem(root, row)][parsed.keep :]
    if parsed.yes and surplus:
        print(removal.delete(root, surplus))  # noqa: T201 -- the cell's answer
        return Listing(root, pattern)
    preview = f"would delete {removal.deletion_summary(surplus)}. To delete: {_deletion_line(pattern, parsed)}"
    print(preview if surplus else f"nothing to delete: --keep {parsed.keep} keeps every run")  # noqa: T201 -- likewise
    return listing


def _metric_name(session: Session, name: str | None) -> str | None:
    """The name of a metric: as it was typed where a run has it, else what a variable of that name holds."""
    text = session.text(name)
    return name if text == name or name in session.metric_names() else text


def _check_combination(pattern: str, parsed: Any) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: names them.
    """
    names = ("model", "sort", "plot", "compare", "delete", "keep")
    flags = [f"--{name}" for name in names if getattr(parsed, name) not in (None, ())]
    for name in ("--compare", "--delete"):
        others = [item for item in [pattern, *flags] if item and item != name]
        if name in flags and others:
            raise InputError(f"{name} cannot be combined with {others[0]}. Type one or the other")
    if parsed.yes and parsed.keep is None:
        raise InputError(
            "--yes has no effect without --keep N, the number of runs to keep. Type %lightning_runs --keep N --yes"
        )


def _deletion_line(pattern: str, parsed: Any) -> str:
    """The line that deletes what ``--keep`` leaves over."""
    words = [pattern] if pattern else []
    for name in ("model", "sort", "keep"):
        if getattr(parsed, name) is not None:
            words += [f"--{name}", str(getattr(parsed, name))]
    return " ".join(["%lightning_runs", *(repr(word) if " " in word else word for word in words), "--yes"])


def _selected_rows(session: Session, root: Path, selected: Sequence[Any]) -> list[catalog.RunRow]:
    """The listed runs that are meant by name; a `Run`, a variable that holds one, ``last`` and a path are taken too.

    Raises:
        RunError: there is no such run, or it is in another folder.
    """
    rows = catalog.rows(root)
    names, places = {row.run for row in rows}, {row.path.resolve(): row.run for row in rows}
    run_names = []
    for item in selected:
        if isinstance(item, str) and item in names:
            run_names.append(item)
            continue
        value = session.find_run(item) or (session.scope.get(item) if isinstance(item, str) else item)
        if isinstance(value, str) and value in names:
            run_names.append(value)
            continue
        path = value.folder.path if isinstance(value, Run) else Path(str(session.text(item))).expanduser()
        path = session.folder(item).path if item == "last" else path
        if isinstance(value, Run) and path.resolve() not in places:
            raise RunError(
                f"{value.name} is in {path}, outside the run folder {root}. Set %config LightningMagics.run_dir first"
            )
        run_names.append(places.get(path.resolve(), str(item)))
    return catalog.rows_named(rows, run_names, str(root))
