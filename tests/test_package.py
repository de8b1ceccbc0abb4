"""What people install: a wheel that works without the checkout, and the files that go with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import lightning_magics

ROOT = Path(__file__).parent.parent

# In the kernel and in a process of its own: both must find the installed package.
USE = """
import lightning_magics
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "lightning_magics")
shell.run_cell_magic("lightning_model", "Net --loss mse_loss", "from torch import nn\\nnn.Linear(2, 1)")
shell.run_cell_magic("lightning_data", "points", "import torch\\ntorch.ones(8, 2), torch.ones(8, 1)")
for more in ("", "--ddp 1"):
    run = shell.run_line_magic("lightning_fit", f"Net points --max_steps 1 --accelerator cpu --quiet {more}")
    assert run.status == "completed", run.logs()
print("used:", lightning_magics.__file__)
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command without anything of this checkout in its environment; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert f"-{lightning_magics.__version__}-" in wheel.name
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment", cwd=tmp_path)
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    # A path within a .pth file brings the packages of this environment, and not what its own .pth files name.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    assert (site / "lightning_magics" / "py.typed").is_file()
    printed = run(tmp_path / "environment" / "bin" / "python", "-c", USE, cwd=tmp_path)
    assert f"used: {site}" in printed


def test_what_is_installed_fits_together() -> None:
    assert "No broken requirements found" in run(sys.executable, "-m", "pip", "check", cwd=ROOT)


def test_changelog_and_citation_are_of_this_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest
    assert newest[1] == lightning_magics.__version__
    assert f"\nversion: {lightning_magics.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
