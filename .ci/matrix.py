#!/usr/bin/env python3
"""Runs all notebooks with the lowest versions that pyproject.toml declares, and with the newest on each Python here.

Each environment is made afresh in build/matrix/. Without arguments all run; names choose: lowest newest-3.11 …
Needs a registry, some gigabytes for each and minutes: it is called by hand or by a scheduled job, not by the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "matrix"
PYTHONS = ("3.11", "3.12", "3.13")
# What the environments install: the examples' packages, and what executes a notebook.
EXTRAS = ("lab", "lightning", "slurm")
TOOLS = ("nbclient", "nbconvert", "ipykernel")


def lowest() -> list[str]:
    """Every declared minimum as a pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(item for name in EXTRAS for item in extras[name])]
    pins = [re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", item) for item in declared]
    return [f"{pin[1]}=={pin[2]}" for pin in pins if pin is not None]


def run(name: str, python: str, pins: list[str]) -> str:
    """Make one environment and execute the notebooks in it; what went wrong, empty if nothing did."""
    folder = PLACE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    notebooks = [ROOT / "demo.ipynb", *sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))]
    for notebook in notebooks:
        shutil.copy(notebook, folder)
    environment = folder / "environment"
    bin_ = environment / "bin"
    extras = ",".join(EXTRAS)
    steps = [
        [f"python{python}", "-m", "venv", str(environment)],
        [
            *(str(bin_ / "python"), "-m", "pip", "install", "--quiet"),
            *("--constraint", str(folder / "constraints.txt"), f"{ROOT}[{extras}]", *TOOLS),
        ],
        [str(bin_ / "python"), "-m", "pip", "check"],
        [str(bin_ / "jupyter-execute"), "--inplace", *(notebook.name for notebook in notebooks)],
    ]
    # The kernel is the environment's own, and sees the installed package rather than the checkout.
    variables = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"}
    for step in steps:
        done = subprocess.run(step, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(step)}\n{(done.stdout + done.stderr)[-3000:]}"
    frozen = subprocess.run([str(bin_ / "python"), "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
    (folder / "versions.txt").write_text(frozen.stdout, encoding="utf-8")
    return ""


def is_there(python: str) -> bool:
    """Whether an interpreter can be started; a launcher of that name alone is not one."""
    return shutil.which(python) is not None and not subprocess.run([python, "-V"], capture_output=True).returncode


def main() -> int:
    """Run the environments that are named, or all."""
    known = {"lowest": (PYTHONS[0], lowest()), **{f"newest-{version}": (version, []) for version in PYTHONS}}
    names = sys.argv[1:] or list(known)
    failed = False
    for name in names:
        if name not in known:
            raise SystemExit(f"{name} is not one of: {', '.join(known)}")
        python, pins = known[name]
        if not is_there(f"python{python}"):
            print(f"{name}: skipped, there is no python{python}")
            continue
        reason = run(name, python, pins)
        failed = failed or bool(reason)
        passed = f"passed; its versions are in {PLACE / name / 'versions.txt'}"
        print(f"{name}: {f'failed: {reason}' if reason else passed}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
