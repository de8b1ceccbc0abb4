"""What tests share: settings of their own, and a fresh shell."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cluster as clusters
import pytest
from elsewhere import Interpreter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

# Read when torch is loaded, here and in kernels: on a busy machine the threads of tiny models wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# With kernels or processes of their own. They begin first, so that no process is left with one of them at the end.
LONG = [
    *("test_text_runs", "test_ddp", "test_faults", "test_cluster", "test_export", "test_repository", "test_browser"),
    *("test_kernel", "test_columns", "test_lightning_examples", "test_train", "test_servers", "test_package"),
    *("test_fine_tuning", "test_model", "test_magics", "test_shards"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first; the others stay in the order of their names."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the user's IPython profile nor a kernel registered elsewhere plays a part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        patch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[clusters.Cluster]:
    """Two hosts with Slurm, brought up once for all tests that need them."""
    with clusters.started() as found:
        yield found


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Interpreter]:
    """Runs code in processes that know nothing of this one."""
    interpreter = Interpreter()
    yield interpreter
    interpreter.stop()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A fresh shell with the extension loaded; its working folder is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # a shell puts its own there
    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "lightning_magics")
    yield shell
    shell.run_line_magic("unload_ext", "lightning_magics")
    InteractiveShell.clear_instance()
