"""The repository as a whole: what loading costs, the README's examples and the demo."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_module_hides_a_name_of_the_python_api() -> None:
    names = {path.stem for path in PACKAGE.glob("[!_]*")}
    assert names.isdisjoint(lightning_magics.__all__)


def test_loading_the_extension_imports_only_what_parses_completes_and_registers() -> None:
    code = (
        "import json, sys\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell, before = InteractiveShell(), set(sys.modules)\n"
        "shell.run_line_magic('load_ext', 'lightning_magics')\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout)
    rooms = {name.split(".")[1] for name in loaded if name.startswith("lightning_magics.")}
    assert rooms == {"clusters", "errors", "magics", "options", "scores", "shell", "version"}
    assert {name.split(".")[0] for name in loaded} <= {"lightning_magics", "IPython", "difflib"}


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


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebooks_of_the_documentation_run(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # `make docs` trains them in full
        cell.source = re.sub(r"--max_epochs \d\d+", "--max_epochs 2", cell.source)
    execute(notebook, tmp_path)
    assert not [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]


def test_a_newcomer_finishes_the_demo() -> None:
    cells = nbformat.read(ROOT / "demo.ipynb", as_version=4).cells
    assert sum(cell.cell_type == "code" for cell in cells) <= 25
    linked = re.findall(r"\]\(([\w/-]+\.ipynb)\)", cells[-1].source)
    assert sorted(linked) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.ipynb"))


@pytest.mark.parametrize("path", [ROOT / "demo.ipynb", *(ROOT / "docs").rglob("*.ipynb")], ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
