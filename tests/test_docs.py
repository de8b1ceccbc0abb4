"""The pages in docs/ and the README say what the code says; that the pages build is `make docs`."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

from lightning_magics.options.declared import DECLARED, NoOptions
from lightning_magics.runs.record import RunRecord

ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


def messages() -> str:
    """Every text of the package, a line each, with ``…`` for each value that is put in."""
    found = []
    for path in sorted((ROOT / "lightning_magics").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append(re.sub("…+", "…", "".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_troubleshooting_quotes_messages_of_the_code() -> None:
    quoted = re.findall(r"^`(.+)`\n: ", PAGES["troubleshooting"], re.M)
    assert len(quoted) > 30
    known = messages()
    unknown = [text for text in quoted if not re.search(re.escape(text).replace("…", ".+?"), known)]
    assert unknown == []


def test_the_contract_of_run_json_lists_every_field() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", PAGES["run-folder"], re.M)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(RunRecord))


def test_the_options_of_every_magic_have_a_table() -> None:
    shown = set(re.findall(r"^```\{options\} (\w+)$", "\n".join(PAGES.values()), re.M))
    assert {DECLARED[verb] for verb in shown - {"trainer"}} == set(DECLARED.values()) - {NoOptions}


def test_the_modules_and_names_in_contributing_exist() -> None:
    missing = []
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        names = re.findall(r"`([\w/.]+)`", line)
        paths = [name for name in names if name.endswith(".py")]
        files = [path for name in paths for path in (ROOT / name, ROOT / "lightning_magics" / name) if path.is_file()]
        words = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
        named = {word for name in names if "/" not in name and name not in paths for word in name.split(".")}
        missing += [line] * (len(files) != len(paths) or bool(files and named - words))
    assert missing == []


def test_the_readme_is_read_in_five_minutes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.encode()) <= 8192
    linked = re.findall(r"\]\(([^):]+)\)", readme)
    assert len(linked) > 10
    assert [path for path in linked if not (ROOT / path).is_file()] == []
