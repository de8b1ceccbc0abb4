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
