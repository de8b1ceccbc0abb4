"""An exception of one process, shown in another as if it had been raised there.

A process that fails leaves a file with the exception, where it was raised, and the text of the cells on the way. The
file is read by whoever watches, also where the exception itself cannot be made again.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import re
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, TracebackType
from typing import Any

from ..errors import RunError, shortened_traceback, truncated
from . import pickling

_MAX_CAUSES = 10  # of a chain of causes, so many are told
_CONNECTION_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
_PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Broken pipe|NCCL|gloo[/\\]transport")
_DIRECT = "\nThe above exception was the direct cause of the following exception:\n\n"
_DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"


@dataclass(frozen=True)
class Frame:
    """A line of a traceback; lines from 1, columns in UTF-8 bytes from 0, None where Python does not know.

    `first` is the line where its function begins: IPython counts from there.
    """

    filename: str
    line: int
    name: str
    end_line: int | None = None
    column: int | None = None
    end_column: int | None = None
    first: int | None = None


@dataclass(frozen=True)
class ExceptionRecord:
    """What is known of an exception.

    Attributes:
        rank: process that raised it.
        time: when, Unix time in seconds.
        type_name: its class, with the module.
        message: what it said.
        frames: where it was raised: the user's own frames, and what the last of them called.
        error: the exception itself, without traceback; None where it cannot be made in this process.
        sources: text of files that are not on the disk, by name.
        secondary: it only says that another process has gone.
        cause: the exception that led to it, if there is one.
        direct: `cause` was named with ``raise ... from``.
    """

    rank: int
    time: float
    type_name: str
    message: str
    frames: tuple[Frame, ...] = ()
    error: BaseException | None = None
    sources: dict[str, str] = field(default_factory=dict)
    secondary: bool = False
    cause: ExceptionRecord | None = None
    direct: bool = False


def save(error: BaseException, path: Path, rank: int) -> None:
    """Write an exception to a file that only its owner can read, at once or not at all.

    What of it cannot travel is left out: an exception is never lost to another one.

    Raises:
        OSError: the file cannot be written.
    """
    data = pickle.dumps(_record(error, rank, _MAX_CAUSES), protocol=5)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load(path: Path) -> ExceptionRecord:
    """Read what `save` wrote; of a file that cannot be read, it tells that."""
    try:
        return _read(pickle.loads(path.read_bytes()))
    except Exception as error:  # unpickling raises anything; the file may be of another version
        message = f"its exception cannot be read from {path}: {type(error).__name__}: {error}"
        return ExceptionRecord(_rank(path), _modified(path), "RunError", message, error=RunError(message))


def earliest(paths: Iterable[Path]) -> ExceptionRecord | None:
    """Return what was raised first; that another process has gone counts only if nothing else was raised."""
    records = [load(path) for path in paths if path.exists()]
    return min(records, key=lambda record: (record.secondary, record.time), default=None)


def rebuild(record: ExceptionRecord) -> BaseException:
    """Make the exception again, with a traceback through the lines where it was raised.

    The lines are shown from the files or cells that this process knows, else from the text that came with it.
    """
    pickling.add_sources(record.sources)
    error = record.error
    if error is None:
        error = RunError(f"{record.type_name}: {record.message}")
    if record.cause is not None:
        error.__context__ = rebuild(record.cause)
        if record.direct:
            error.__cause__ = error.__context__
    trace: TracebackType | None = None
    for frame in reversed(record.frames):
        trace = _traceback(frame, trace)
    return error.with_traceback(trace)


def traceback_text(record: ExceptionRecord) -> str:
    """The traceback as Python prints it."""
    pickling.add_sources(record.sources)
    before = traceback_text(record.cause) + (_DIRECT if record.direct else _DURING) if record.cause is not None else ""
    frames = [
        traceback.FrameSummary(frame.filename, frame.line, frame.name, lookup_line=False) for frame in record.frames
    ]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []
    notes = "".join(f"{note}\n" for note in getattr(record.error, "__notes__", ()))
    message = f"{record.type_name}: {record.message}" if record.message else record.type_name
    return f"{before}{''.join(lines)}{message}\n{notes}"


def _record(error: BaseException, rank: int, causes: int) -> dict[str, Any]:
    """Take an exception apart into what every process can read, and a pickle of itself."""
    frames = _frames(shortened_traceback(error))
    message = _message(error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return {
        "rank": rank,
        "time": time.time(),
        "type_name": pickling.type_name(type(error)),
        "message": message,
        "frames": frames,
        "sources": pickling.cell_sources({frame[0] for frame in frames}),
        "secondary": _is_secondary(error, message),
        "cause": _record(cause, rank, causes - 1) if cause is not None and causes > 0 else None,
        "direct": error.__cause__ is not None,
        "error": _pickle_error(error),
    }


def _read(record: dict[str, Any]) -> ExceptionRecord:
    values = dict(record)
    values["frames"] = tuple(Frame(*frame) for frame in record["frames"])
    values["cause"] = _read(record["cause"]) if record["cause"] else None
    values["error"] = _unpickle_error(record["error"])
    return ExceptionRecord(**values)


def _rank(path: Path) -> int:
    """Rank in the file's name, else 0."""
    digits = re.search(r"\d+", path.name)
    return int(digits.group()) if digits else 0


def _modified(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return time.time()


def _message(error: BaseException) -> str:
    try:
        return truncated(str(error))
    except Exception as failure:  # a __str__ of the user's
        return f"<its __str__ raised {type(failure).__name__}>"


def _is_secondary(error: BaseException, message: str) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    return not names.isdisjoint(_CONNECTION_ERRORS) or (
        isinstance(error, RuntimeError) and bool(_PEER_GONE.search(message))
    )


def _frames(trace: TracebackType | None) -> list[tuple[Any, ...]]:
    """Return the fields of a `Frame` for each entry of a traceback."""
    entries = []
    while trace is not None:
        code = trace.tb_frame.f_code
        positions = list(code.co_positions())
        index = trace.tb_lasti // 2
        _, end_line, column, end_column = positions[index] if index < len(positions) else (None,) * 4
        location = (code.co_filename, trace.tb_lineno, code.co_name, end_line, column, end_column)
        entries.append((*location, code.co_firstlineno))
        trace = trace.tb_next
    return entries


def _traceback(frame: Frame, inner: TracebackType | None) -> TracebackType:
    """Make an entry of a traceback: code that raises at that place of that file, under that name."""
    statement = ast.Raise(ast.Name("error", ast.Load()))
    has_columns = frame.column is not None and frame.end_column is not None and frame.end_line is not None
    for node in (statement, statement.exc):
        node.lineno, node.end_lineno = frame.line, frame.end_line if has_columns else frame.line  # type: ignore[union-attr]
        node.col_offset, node.end_col_offset = (frame.column, frame.end_column) if has_columns else (0, 0)  # type: ignore
    names: dict[str, Any] = {"error": _Here(), "__name__": "__main__"}
    code = _code(statement, frame).replace(co_name=frame.name, co_qualname=frame.name)
    try:
        FunctionType(code, names)()
    except _Here as here:
        entry = here.__traceback__.tb_next  # type: ignore[union-attr]
    del names["error"]
    return TracebackType(inner, entry.tb_frame, entry.tb_lasti, frame.line)  # type: ignore[union-attr]


def _code(statement: ast.Raise, frame: Frame) -> CodeType:
    """Code that begins where a frame's function does, and raises at its line."""
    if frame.name == "<module>" or frame.first is None or frame.first > frame.line:
        return compile(ast.Module([statement], []), frame.filename, "exec")
    function = ast.parse("def function(): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = [statement]
    function.lineno, function.end_lineno = frame.first, frame.line
    module_code = compile(ast.Module([function], []), frame.filename, "exec")
    return next(item for item in module_code.co_consts if isinstance(item, CodeType))


class _Here(Exception):  # noqa: N818 -- no error: it makes a traceback
    """Raised to have a traceback."""


class _ExceptionPickler(pickling.Pickler):
    """Takes exceptions apart without a look at their constructors; what cannot be pickled goes as its ``repr``."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseException):
            arguments = tuple(part if _is_picklable(part) else repr(part) for part in obj.args)
            return (
                _remade,
                (type(obj), arguments),
                {name: part for name, part in _state(vars(obj)).items() if _is_picklable(part)},
            )
        return super().reducer_override(obj)


class _PlainPickler(pickling.Pickler):
    """Takes exceptions apart as they ask for it."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseException):
            reduced = obj.__reduce_ex__(5)
            if isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict):
                return *reduced[:2], _state(reduced[2]), *reduced[3:]
            return reduced
        return super().reducer_override(obj)


def _state(state: dict[str, Any]) -> dict[str, Any]:
    """Leave out what belongs to the showing of a traceback."""
    return {name: value for name, value in state.items() if name != "_render_traceback_"}


def _remade(cls: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    return cls.__new__(cls, *arguments)


def _pickle_error(error: BaseException) -> bytes | None:
    """Pickle an exception so that it can be made again; None where it cannot."""
    for kind in (_PlainPickler, _ExceptionPickler):
        try:
            data = _dumps(error, kind)
            copy = pickle.loads(data)
        except Exception:  # whatever a class raises when it is taken apart or made again
            continue
        if type(copy) is type(error) and _message(copy) == _message(error):
            return data
    return None


def _unpickle_error(data: bytes | None) -> BaseException | None:
    """Make an exception again; None where its class cannot be found or refuses."""
    try:
        error = pickle.loads(data) if data is not None else None
    except Exception:  # likewise
        return None
    return error if isinstance(error, BaseException) else None


def _is_picklable(part: Any) -> bool:
    try:
        pickle.loads(_dumps(part, _ExceptionPickler))
    except Exception:  # likewise
        return False
    return True


def _dumps(value: Any, kind: type[pickling.Pickler]) -> bytes:
    stream = io.BytesIO()
    kind(stream).dump(value)
    return stream.getvalue()
