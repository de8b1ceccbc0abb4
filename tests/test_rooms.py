"""The rooms of the package: what each may import, what loads torch, who knows Slurm, and where tests lie."""

import ast
import functools
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_magics"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
ROOMS = sorted({name.rpartition("/")[0] for name in MODULES} - {""})
TOP = ("__init__", "magics")
HEAVY = {"torch", "lightning", "pytorch_lightning", "torchmetrics", "transformers", "tensorboard", "matplotlib"}
HEAVY |= {"ipywidgets", "mlflow", "pandas"}
FRONT_END = {"IPython", "ipywidgets"}

# What imports torch when it is loaded. %load_ext loads none of them.
TORCH = {
    *(name for name in MODULES if name.startswith(("training/", "definitions/model/"))),
    *("definitions/evaluation", "definitions/lookup", "definitions/matching"),
    *(f"definitions/data/{name}" for name in ("datamodule", "loaders", "samples", "text_module", "text_sources")),
    "launch/rank_process",
    *("runs/fingerprint", "runs/randomness"),
    *("transport/payload", "transport/stop_broadcast"),
}
# Of those, what happens to import it no longer or not yet: they may.
WITHOUT_TORCH = {
    *("definitions/model/__init__", "training/__init__"),
    *(f"training/{name}" for name in ("job", "main_module", "messages", "snapshots")),
}

# Tests of a whole room, and one whose module has the name of another, as no two tests may.
OF_A_ROOM = {
    *("commands/test_export", "definitions/data/test_classes", "launch/slurm/test_cluster", "launch/test_ddp"),
    *("launch/test_faults", "training/test_judged"),
}
OF_EVERYTHING = {"browser", "docs", "kernel", "lightning_examples", "package", "repository", "rooms", "text_runs"}


def is_deferred(node: ast.AST) -> bool:
    type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    return type_checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


@functools.cache
def imports(module: str, at_once: bool = False) -> frozenset[str]:
    """What a module imports: of this package ``./launch/kernel``, of others the top package.

    Args:
        module: ``launch/kernel``.
        at_once: whether what is imported by functions, and for types alone, is left out.
    """
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {name for alias in node.names for name in own(alias.name.split("."))}
        elif isinstance(node, ast.ImportFrom):
            here = ["lightning_magics", *module.split("/")[:-1]] if node.level else []
            source = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
            found |= {name for alias in node.names for name in own([*source, alias.name])}
        elif not (at_once and is_deferred(node)):
            nodes += ast.iter_child_nodes(node)
    return frozenset(found - {f"./{module}"})


def own(parts: list[str]) -> Iterator[str]:
    """Names of what is imported under a dotted name."""
    if parts[0] != "lightning_magics":
        yield parts[0]
        return
    for place in ("/".join(parts[1:]), "/".join(parts[1:-1])):
        if place in MODULES:
            yield f"./{place}"
            return
    yield "./__init__"


ARROWS = {name: {item.removeprefix("./") for item in imports(name) if item.startswith("./")} for name in MODULES}


def reached(module: str) -> set[str]:
    """All that is loaded when a module is: modules of this package, and the top packages of others."""
    seen: set[str] = set()
    todo = {f"./{module}"}
    while todo:
        name = todo.pop()
        seen.add(name)
        if name.startswith("./"):
            todo |= imports(name.removeprefix("./"), at_once=True) - seen
    return seen


@functools.cache
def rows() -> dict[str, tuple[str, str]]:
    """The table of the documentation: of each room from top to bottom what it is for, and what it may import."""
    table = re.findall(r"^\| room \|.*\n\|.*\n((?:\|.*\n)+)", PAGE, re.M)[0]
    cells = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    return {name.replace("`", "").rstrip("/"): (purpose, allowed) for name, purpose, allowed in cells}


def room(module: str) -> str:
    """The row of a module: its outermost folder, or one of the two rows of modules outside of rooms."""
    first, *rest = module.split("/")
    if rest:
        return first
    return next(row for row in rows() if module in row.split(", "))


def allowed(row: str) -> set[str]:
    """The rows that may be imported from within a row."""
    order, words = list(rows()), rows()[row][1]
    below = {name for name in order[order.index(row) + 1 :] if "/" not in name}
    if words in ("everything below", "every room below"):
        return below | {row}
    named = {name.strip("`/") for name in re.findall(r"`\w+/`", words)}
    assert named <= below, "a room imports from above"
    return named | {row, order[-1]}


def test_the_documentation_has_a_row_for_each_room_and_for_each_module_outside_of_rooms() -> None:
    outside = {name for name in MODULES if "/" not in name}
    listed = [name for row in rows() for name in (row.split(", ") if row not in ROOMS else [])]
    assert sorted(listed) == sorted(outside)
    assert sorted(set(rows()) & set(ROOMS)) == ROOMS


@pytest.mark.parametrize("row", [row for row in rows() if "/" not in row])
def test_a_room_imports_what_its_row_allows(row: str) -> None:
    others = {(name, item) for name in MODULES if room(name) == row for item in ARROWS[name]}
    assert sorted(pair for pair in others if room(pair[1]) not in allowed(row)) == []


def test_imports_have_no_circle() -> None:
    graphlib.TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_for_and_nothing_else(name: str) -> None:
    tree = ast.parse(MODULES[f"{name}/__init__"].read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree) == rows()[name][0]


@pytest.mark.parametrize("name", sorted(set(MODULES) - TORCH))
def test_what_is_loaded_before_the_first_call_needs_nothing_heavy(name: str) -> None:
    assert not reached(name) & HEAVY


def test_the_list_of_what_imports_torch_is_not_longer_than_it_must_be() -> None:
    assert {name for name in TORCH if not reached(name) & HEAVY} == WITHOUT_TORCH


@pytest.mark.parametrize("name", sorted(TORCH | {item for item in MODULES if item.startswith("transport/")}))
def test_what_trains_never_imports_the_front_end(name: str) -> None:
    seen, todo = set(), {f"./{name}"}
    while todo:
        item = todo.pop()
        seen.add(item)
        if item.startswith("./"):
            inner = item.removeprefix("./")
            # Of the kernel side only what is imported at once counts: a function there may draw.
            todo |= imports(inner, at_once=inner not in TORCH) - seen
    assert not seen & FRONT_END


def test_engines_are_found_by_their_name_alone() -> None:
    found = {(name, item) for name in MODULES for item in ARROWS[name] if item.startswith("launch/slurm/")}
    assert sorted(pair for pair in found if not pair[0].startswith("launch/slurm/")) == []
    texts = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}
    assert [name for name, text in texts.items() if "launch.slurm" in text] == ["clusters"]


def test_no_two_classes_bear_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_one_module_spells_the_names_of_a_run_s_files() -> None:
    folder = MODULES["runs/folder"].read_text(encoding="utf-8")
    files = set(re.findall(r'"(\w+\.(?:json|jsonl|py|pt|ckpt))"', folder))
    assert files >= {"run.json", "events.jsonl", "source.py", "last.ckpt", "job.pt", "predictions.pt"}
    names = re.compile(rf"\b({'|'.join(map(re.escape, sorted(files)))})\b|^\.?(rank|error|predictions)_|rank_\$")
    spelled = []
    for name in sorted(set(MODULES) - {"runs/folder"}):
        nodes = list(ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
        spelled += [(name, text) for text in texts if isinstance(text, str) and names.search(text)]
    assert spelled == []


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    tests = {
        path.relative_to(ROOT / "tests").with_suffix("").as_posix() for path in (ROOT / "tests").rglob("test_*.py")
    }
    assert tests >= OF_A_ROOM
    strangers = []
    for name in sorted(tests - OF_A_ROOM):
        *rooms, own_name = name.split("/")
        module = own_name.removeprefix("test_")
        if "/".join([*rooms, module]) not in MODULES and not (not rooms and module in OF_EVERYTHING):
            strangers.append(name)
    assert strangers == []
    assert len({name.rpartition("/")[2] for name in tests}) == len(tests)
