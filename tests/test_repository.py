"""The repository as a whole: import arrows, what loading costs, the README's examples and the demo."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from kernel import WIDGET

import lightning_magics

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lightning_magics"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
LIGHTNING = {"torch", "lightning", "pytorch_lightning", "torchmetrics", "transformers"}
HEAVY = LIGHTNING | {"tensorboard", "matplotlib", "ipywidgets", "mlflow", "pandas"}
FRONT_END = {"IPython", "ipywidgets"}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def imports(module: str, top_level_only: bool) -> set[str]:
    """Names of what a module imports: of this package ``.name``, of others the top package."""
    found: set[str] = set()
    nodes = [ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {own(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            found |= {own(f"{source.rstrip('.')}.{alias.name}") for alias in node.names}
        elif not (top_level_only and is_deferred(node)):
            nodes += ast.iter_child_nodes(node)
    return found


def own(name: str) -> str:
    """Of this package the module, ``.errors`` for ``.errors.InputError``; of others the top package."""
    first, *rest = name.split(".")
    if first not in ("", "lightning_magics"):
        return first
    return f".{rest[0]}" if rest and rest[0] in MODULES else ""


def is_deferred(node: ast.AST) -> bool:
    type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    return type_checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def arrows() -> dict[str, set[str]]:
    """Every import within the package, also those inside functions."""
    return {
        module: {name[1:] for name in imports(module, top_level_only=False) if name.startswith(".")}
        for module in MODULES
    }


LISTING = re.findall(r"^```text\n(# What is typed\n.*?)^```", README, re.M | re.S)[0]
TORCH_SIDE = set(re.findall(r"^(\w+) +torch ", LISTING, re.M))
KERNEL_SIDE = set(MODULES) - TORCH_SIDE


def drawn() -> dict[str, set[str]]:
    """The listing of the README: modules from top to bottom, each with what it imports."""
    entries = re.split(r"^(?=\w)", re.sub(r"^#.*\n|^\n", "", LISTING, flags=re.M), flags=re.M)
    return {entry.split()[0]: set(re.findall(r"\w+", entry.partition("→")[2])) for entry in entries if entry.strip()}


def test_readme_draws_the_modules_and_every_arrow_points_down() -> None:
    listing = drawn()
    assert listing == arrows()
    order = list(listing)
    upwards = [(name, item) for name in order for item in listing[name] if order.index(item) < order.index(name)]
    assert upwards == []


def test_no_module_hides_a_name_of_the_python_api() -> None:
    assert set(MODULES).isdisjoint(lightning_magics.__all__)


@pytest.mark.parametrize("module", sorted(KERNEL_SIDE))
def test_kernel_side_imports_nothing_heavy_at_module_top(module: str) -> None:
    found = imports(module, top_level_only=True)
    assert not found & HEAVY
    assert not found & {f".{name}" for name in TORCH_SIDE}


@pytest.mark.parametrize("module", sorted(TORCH_SIDE))
def test_torch_side_never_imports_the_front_end(module: str) -> None:
    seen, todo = set(), {f".{module}"}
    while todo:
        name = todo.pop()
        seen.add(name)
        if name.startswith("."):
            # Of the kernel side only what is imported at once counts: a function there may draw.
            todo |= imports(name[1:], top_level_only=name[1:] in KERNEL_SIDE) - seen
    assert not seen & FRONT_END


def test_loading_the_extension_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell().run_line_magic('load_ext', 'lightning_magics')\n"
        "print(json.dumps([name for name in sys.modules if '.' not in name]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(json.loads(done.stdout)) & HEAVY


def notebook_of(cells: list[str]) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbclient.NotebookClient:
    """Run a notebook in a real kernel; a cell that fails raises."""
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300, resources=resources)
    client.execute()
    return client


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def examples(text: str) -> list[str]:
    """The blocks of Python of a page, in their order; cells of a notebook are executed where the pages are built."""
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


def pages() -> list[str]:
    """The pages of the documentation, in the order of its contents."""
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"^[a-z-]+$", "".join(re.findall(r"^```\{toctree\}\n(.*?)^```", contents, re.M | re.S)), re.M)
    assert sorted(names) == sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
    return [(ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in names]


def test_every_example_runs_and_an_executed_notebook_holds_the_final_table(tmp_path: Path) -> None:
    readme = examples(README)
    assert len(readme) > 3
    more = [cell for page in pages() for cell in examples(page)]
    assert len(more) > 10
    notebook = notebook_of([*readme, "print(run.metrics['val_accuracy'] > 0.9)", *more])
    client = execute(notebook, tmp_path)
    assert printed(notebook.cells[len(readme)]) == "True\n"
    assert not client.widget_state
    fit = next(cell for cell in notebook.cells if cell.source.startswith("run = %lightning_fit"))
    (output,) = fit.outputs
    assert "val_accuracy" in output["data"]["text/html"]
    assert "val_accuracy" in output["data"]["text/plain"]
    assert WIDGET not in output["data"]
    assert len(json.dumps(output)) < 100_000


def test_the_demo_runs_and_reaches_nine_tenths(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "demo.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(run.metrics['val_accuracy'], best.metrics['val_accuracy'])"))
    execute(notebook, tmp_path)
    assert min(float(value) for value in printed(notebook.cells[-1]).split()) > 0.9
    for cell in notebook.cells:
        assert len(json.dumps(cell.get("outputs", []))) < 100_000
        assert not [output for output in cell.get("outputs", []) if output.get("name") == "stderr"]
        assert WIDGET not in json.dumps(cell.get("outputs", []))


def test_the_demo_is_kept_without_outputs() -> None:
    for cell in nbformat.read(ROOT / "demo.ipynb", as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
