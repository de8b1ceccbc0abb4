"""How a file of texts is written: found by reading it once. The reading is pandas', here and in generated code.

Which columns are wanted, and whether they can be trained on, is in `text_sources`.
"""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError, MissingPackage, did_you_mean


@dataclass(frozen=True)
class Reader:
    """How pandas reads files of a kind: their name in messages, and the code, which `text_module` fills in."""

    label: str
    code: str


_READ_DELIMITED = """
rows = pandas.read_csv(
    path, sep=DELIMITER, quoting=QUOTING, encoding=ENCODING, header=None, dtype=str, keep_default_na=False
)
return rows[1:].set_axis(rows.iloc[0], axis=1)
"""
DELIMITED = Reader("delimited text", _READ_DELIMITED)
_LINES = Reader(
    "JSON lines", "return pandas.read_json(path, lines=True, encoding=ENCODING, dtype=False, convert_axes=False)"
)
_JSON = Reader("JSON", "return pandas.read_json(path, encoding=ENCODING, dtype=False, convert_axes=False)")
_PARQUET = Reader("Parquet", "return pandas.read_parquet(path, columns=COLUMNS)")
# Of each ending of a file's name: how such a file is read as a rule, and what a user types to read one.
# `read` decodes every format but Parquet as text: another binary format needs its own branch there.
ENDINGS: dict[str, tuple[Reader, str]] = {
    ".csv": (DELIMITED, "pandas.read_csv({!r})"),
    ".tsv": (DELIMITED, "pandas.read_csv({!r}, sep='\\t')"),
    ".txt": (DELIMITED, "pandas.read_csv({!r}, sep='\\t')"),
    ".jsonl": (_LINES, "pandas.read_json({!r}, lines=True)"),
    ".ndjson": (_LINES, "pandas.read_json({!r}, lines=True)"),
    ".json": (_JSON, "pandas.read_json({!r})"),
    ".parquet": (_PARQUET, "pandas.read_parquet({!r})"),
}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_DELIMITER_NAMES = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
_BYTE_ORDER_MARKS = {  # the longer ones first, since one begins like another
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UTF8 = "utf-8-sig"  # with a mark at its beginning, or without


@dataclass(frozen=True)
class FileFormat:
    """How a file is written: what its rows are, of fields what is between them, and its encoding."""

    reader: Reader
    delimiter: str = ""
    encoding: str = _UTF8

    def __str__(self) -> str:
        what = f"fields separated by {_DELIMITER_NAMES[self.delimiter]}" if self.delimiter else self.reader.label
        return what if self.encoding == _UTF8 else f"{what} in {self.encoding}"


@dataclass(frozen=True)
class TextFile:
    """A file that was read.

    Attributes:
        path: of it.
        format: how it is written.
        columns: their names.
        quoted: of a delimited one whether quotes go round its fields, None where it has none.
        text: of a delimited one; its table is made once it is known how its quotes are read.
        table: of another one.
    """

    path: Path
    format: FileFormat
    columns: list[str]
    quoted: bool | None = None
    text: str = ""
    table: Any = None


def file_ending(path: Path) -> str:
    """The ending of a file's name that tells how it is written; of a compressed one that of its content."""
    last = path.suffix.lower()
    if last not in _COMPRESSED:
        return last
    inner = Path(path.stem).suffix.lower()
    if last == ".zip" and inner not in ENDINGS and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inner = Path(archive.namelist()[0] if archive.namelist() else "").suffix.lower()
    return inner


def is_file_of_texts(path: Path) -> bool:
    """Whether a name is that of a file which can be read as texts."""
    return file_ending(path) in ENDINGS


def pandas_call(file: str) -> str:
    """What a user types to read a file of texts."""
    return ENDINGS[file_ending(Path(file))][1].format(file)


def read(path: Path, wanted: Sequence[str | None], encoding: str | None) -> TextFile:
    """Read a file, and find how it is written.

    Args:
        path: of it.
        wanted: names of columns, by which a delimiter is found.
        encoding: that it has, None to find it.

    Raises:
        InputError: it is no such file, or has another encoding.
        ValueError: pandas cannot read it.
    """
    ending = file_ending(path)
    if ending not in ENDINGS:
        raise InputError(f"{path} is not a supported text file. Supported endings: {', '.join(ENDINGS)}")
    if not path.is_file():
        near = did_you_mean(path.name, [item.name for item in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise InputError(f"there is no file {path}.{near}")
    reader, _ = ENDINGS[ending]
    if reader is _PARQUET:
        if encoding is not None:
            raise InputError(f"--encoding {encoding} would have no effect: {path} is a Parquet file")
        return _read_parquet(path, wanted)
    text, encoding = _decode(path, encoding)
    if not text.strip():
        raise ValueError("it is empty")
    if reader is DELIMITED:
        usual = "," if ending == ".csv" else "\t"
        heads = {sign: _first_row(text, sign) for sign in (usual, *_DELIMITER_NAMES)}
        delimiter = next((sign for sign, head in heads.items() if set(wanted) <= set(head)), usual)
        quoted = _are_quotes(text, delimiter) if delimiter == "\t" else True
        return TextFile(path, FileFormat(DELIMITED, delimiter, encoding), heads[delimiter], quoted, text)
    reader, table = _read_json(text, wanted)
    return TextFile(path, FileFormat(reader, encoding=encoding), [str(name) for name in table.columns], table=table)


def _read_parquet(path: Path, wanted: Sequence[str | None]) -> TextFile:
    import pandas
    from pyarrow import parquet  # type: ignore[import-untyped]

    columns = [str(name) for name in parquet.read_schema(path).names]
    wanted_columns = [name for name in dict.fromkeys(wanted) if name in columns]
    table = (
        pandas.read_parquet(path, columns=wanted_columns)
        if all(columns.count(str(name)) == 1 for name in wanted_columns)
        else None
    )
    return TextFile(path, FileFormat(_PARQUET), columns, table=table)


def _decode(path: Path, encoding: str | None) -> tuple[str, str]:
    """The text of a file and its encoding.

    Raises:
        InputError: it has another one.
        ValueError: it cannot be decompressed.
    """
    from pandas.io.common import get_handle

    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            near = did_you_mean(encoding, ["utf-8", "utf-16", "latin-1", "cp1252", "cp1251", "gb18030", "shift_jis"])
            raise InputError(f"--encoding {encoding} is not a Python encoding.{near}") from None
    try:
        with get_handle(path, "rb", compression="infer", is_text=False) as handles:
            content = handles.handle.read()
    except ImportError as error:
        raise MissingPackage("zstandard", f"reading {path}", "zstandard") from error
    except Exception as error:  # whatever the decompressors raise
        raise ValueError(f"{type(error).__name__}: {error}") from error
    marked_encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), _UTF8)
    used = marked_encoding if encoding is None else _UTF8 if codecs.lookup(encoding).name == "utf-8" else encoding
    hint = "Type its encoding, such as --encoding cp1252 or --encoding utf-16"
    try:
        text = content.decode(used)
    except UnicodeError as error:
        what = "UTF-8" if used == _UTF8 else used
        position = getattr(error, "start", None)
        where = f": byte 0x{content[position]:02x} at position {position:,}" if position is not None else ""
        raise InputError(f"{path} is not {what}{where}. {hint}") from error
    if "\0" in text[:1000]:
        raise InputError(f"{path} is not {'UTF-8' if used == _UTF8 else used}: it contains null characters. {hint}")
    return text, used


def _first_row(text: str, sign: str) -> list[str]:
    """The first row of a delimited text, empty where there is none."""
    import pandas

    try:
        return list(_read_delimited(text, sign, True, nrows=1).iloc[0])
    except (ValueError, pandas.errors.ParserError):
        return []


def _read_delimited(text: str, delimiter: str, quoted: bool, **options: Any) -> Any:
    """The rows of a delimited text, with the one of the names, as generated code reads them."""
    import csv

    import pandas

    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    file = io.StringIO(text)
    return pandas.read_csv(
        file, sep=delimiter, quoting=quoting, header=None, dtype=str, keep_default_na=False, **options
    )


def read_table(file: TextFile, quoted: bool, label: str) -> Any:
    """The table of a file.

    Args:
        file: that was read.
        quoted: whether quotes go round the fields of the files.
        label: column of the labels.

    Raises:
        InputError: a row has more fields than there are columns, or a quote takes rows into a text.
        ValueError: pandas cannot read it.
    """
    if file.table is not None:
        return file.table
    delimiter = file.format.delimiter
    try:
        rows = _read_delimited(file.text, delimiter, quoted)
    except ValueError as error:
        wide = re.search(r"Expected \d+ fields in line (\d+), saw", str(error))
        if wide:
            raise InputError(
                f"{file.path} has more fields than columns in row {int(wide[1]) - 1:,}. Put texts that contain "
                f"{_DELIMITER_NAMES[delimiter]} in quotes"
            ) from error
        if quoted:
            _check_quotes(file, label, set())
        raise
    frame = rows[1:].set_axis(rows.iloc[0], axis=1)
    if quoted:
        _check_quotes(file, label, {item for item in frame[label] if "\n" not in item})
    return frame


def _fields_in_quotes(text: str, delimiter: str) -> Iterator[tuple[int, int, bool]]:
    """Where each field that begins with a quote starts and ends, and whether a quote closes it."""
    sign = re.escape(delimiter)
    for match in re.finditer(rf'(?:^|(?<={sign}))"[^"]*+(?:""[^"]*+)*+("?)', text, re.MULTILINE):
        yield match.start(), match.end(), match[1] == '"' and text[match.end() : match.end() + 1] in delimiter + "\r\n"


def _are_quotes(text: str, delimiter: str) -> bool | None:
    """Whether quotes in a file of tabs go round fields, rather than being signs of the texts, as in many such files.

    Two that stand alone would make one field of all that is between them.
    """
    is_quoted = None
    for start, end, is_closed in _fields_in_quotes(text, delimiter):
        field = text[start:end]
        if not is_closed or (delimiter in field and "\n" in field):
            return False
        is_quoted = True
    return is_quoted


def _check_quotes(file: TextFile, label: str, labels: set[str]) -> None:
    """Check that no quote takes the rows after it into one text.

    Args:
        file: a delimited one.
        label: column of the labels.
        labels: those of the rows that are on one line.

    Raises:
        InputError: one does.
    """
    text, delimiter, place = file.text, file.format.delimiter, file.columns.index(label)

    def is_row(line: str) -> bool:
        fields = line.rstrip("\r").split(delimiter)
        return len(fields) == len(file.columns) and fields[place].strip('"') in labels

    for start, end, is_closed in _fields_in_quotes(text, delimiter):
        if "\n" not in text[start:end]:
            continue
        begin = text.rfind("\n", 0, start) + 1
        lines = text[begin:end].split("\n")
        is_before = text[begin:start].count(delimiter) > place  # the label
        takes_rows = all(map(is_row, lines[1:])) and len(lines) > 2 if is_before else is_row(lines[0])
        if takes_rows or not is_closed:
            raise InputError(
                f"{file.path} has a stray quote in line {text.count(chr(10), 0, start) + 1:,} that merges the next "
                f"rows into one text. Remove it, or put the text in quotes and double the quote inside it"
            )


def _read_json(text: str, wanted: Sequence[str | None]) -> tuple[Reader, Any]:
    """The table of a JSON text: a list of rows, a row on each line, or columns by name.

    Raises:
        ValueError: it is none of these.
    """
    import pandas

    readers = (_JSON,) if text.lstrip().startswith("[") else (_LINES, _JSON)
    errors = []
    for reader in readers:
        try:
            frame = pandas.read_json(io.StringIO(text), lines=reader is _LINES, dtype=False, convert_axes=False)
        except (ValueError, AttributeError, TypeError) as error:
            errors.append(error)
            continue
        columns = [name for name in wanted if name in frame.columns]
        if reader is _LINES and len(frame) == 1 and any(isinstance(frame[name][0], list | dict) for name in columns):
            continue  # a line that holds the columns
        return reader, frame
    raise ValueError(str(errors[0]) if errors else "its rows are not objects, such as {...}")
