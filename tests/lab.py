"""A real JupyterLab in a real browser, for tests: starts both, opens and runs notebooks, and looks at them.

What is asserted is in the tests that use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat.sign import NotebookNotary

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_TOKEN = "lab"
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_QUIET = ("--disable-background-networking", "--disable-component-update")
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Lab:
    """A JupyterLab server over a folder, and a page of a browser in it.

    Attributes:
        folder: root of the server; notebooks lie in it.
        page: playwright's page.
    """

    def __init__(self, folder: Path, url: str, page: Any) -> None:
        self.folder = folder
        self.page = page
        self._url = url

    def open_notebook(self, name: str, *, trusted: bool = True, kernel: bool = True) -> None:
        """Open a notebook in a fresh workspace; with its kernel ready, or with none started.

        Trust holds for notebooks that this server signed: those saved from it, or signed by `trusted`.
        """
        if trusted:
            self._trust(name)
        self.page.goto(f"{self._url}/lab/tree/{name}?token={_TOKEN}&reset", wait_until="domcontentloaded")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        if kernel:
            self.page.wait_for_function(
                """() => { const name = document.querySelector('.jp-KernelName')?.textContent;
                    const dot = document.querySelector('.jp-Notebook-ExecutionIndicator');
                    return name && name !== 'No Kernel' && dot?.dataset.status === 'idle' }""",
                timeout=60_000,
            )

    def run_all(self) -> None:
        """Start all cells of the notebook, and return at once."""
        self.page.click('.lm-MenuBar-itemLabel:text-is("Run")')
        self.page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')

    def run_cell(self, index: int) -> None:
        """Start one cell, and return at once."""
        self.page.evaluate(
            """index => { const app = window.jupyterapp;
                app.shell.currentWidget.content.activeCellIndex = index;
                app.commands.execute('notebook:run-cell-and-select-next') }""",
            index,
        )

    def interrupt(self) -> None:
        """Press ■."""
        self.page.click('[data-command="notebook:interrupt-kernel"]')

    def restart_kernel(self) -> None:
        """Restart the kernel, and wait until it is ready."""
        self.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self.wait_idle()

    def edit_cell(self, index: int, source: str) -> None:
        """Put other code into a cell."""
        self.page.evaluate(
            """([index, source]) => window.jupyterapp.shell.currentWidget.content.widgets[index]
                .model.sharedModel.setSource(source)""",
            [index, source],
        )

    def wait_idle(self, timeout_s: float = 60) -> None:
        """Wait until no cell waits or runs."""
        self.page.wait_for_function(
            """() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle' &&
                ![...document.querySelectorAll('.jp-Cell .jp-InputPrompt')].some(p => p.textContent.includes('*'))""",
            timeout=timeout_s * 1000,
        )

    def wait_for_text(self, text: str, timeout_s: float = 60) -> None:
        """Wait until an output shows a text."""
        self.page.wait_for_function(
            "text => [...document.querySelectorAll('.jp-OutputArea')].some(o => o.innerText.includes(text))",
            arg=text,
            timeout=timeout_s * 1000,
        )

    def save(self, name: str) -> nbformat.NotebookNode:
        """Save the notebook, and return what is on the disk."""
        path = self.folder / name
        before = path.stat().st_mtime_ns
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        deadline = time.monotonic() + 20
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.05)
        return nbformat.read(path, as_version=4)

    def outputs(self) -> str:
        """Return the text of all outputs."""
        return "\n".join(self.page.locator(".jp-OutputArea").all_inner_texts())

    def theme(self, name: str) -> None:
        """Change the theme: light or dark."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", _THEMES[name]
        )
        light = "true" if name == "light" else "false"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")

    def screenshot(self, path: Path) -> Path:
        """Take a picture of the page."""
        self.page.screenshot(path=str(path))
        return path

    def _trust(self, name: str) -> None:
        notary = NotebookNotary(data_dir=_environment(self.folder.parent)["JUPYTER_DATA_DIR"])
        notary.sign(nbformat.read(self.folder / name, as_version=4))
        notary.store.close()


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """Start JupyterLab with a home of its own beside `folder`, and a browser; end both, kernels first."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with _server(folder, port, url), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=[*_FLAGS, *_QUIET])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            yield Lab(folder, url, page)
        finally:
            browser.close()
            _end_kernels(url)


@contextlib.contextmanager
def _server(folder: Path, port: int, url: str) -> Iterator[None]:
    settings = folder.parent / "home/settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        *("--ServerApp.port_retries=0", f"--IdentityProvider.token={_TOKEN}", f"--ServerApp.root_dir={folder}"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (folder.parent / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=_environment(folder.parent), stdout=log, stderr=log)
        try:
            _wait_until_up(url, server)
            yield
        finally:
            server.terminate()
            try:
                server.wait(60)  # it ends its kernels first
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _environment(home: Path) -> dict[str, str]:
    """The environment without what belongs to the user's own Jupyter."""
    own = home / "home"
    names = {
        "HOME": own,
        "IPYTHONDIR": own / "ipython",
        "JUPYTER_CONFIG_DIR": own / "config",
        "JUPYTER_DATA_DIR": own / "data",
        "JUPYTER_RUNTIME_DIR": own / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": own / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": own / "workspaces",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
    return {**kept, **{name: str(path) for name, path in names.items()}}


def _wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/api?token={_TOKEN}", timeout=1).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start at {url}; exit status {server.poll()}")


def _end_kernels(url: str) -> None:
    """End the kernels that the server started: they would outlive it."""
    with urllib.request.urlopen(f"{url}/api/kernels?token={_TOKEN}", timeout=5) as answer:
        kernels = json.load(answer)
    for kernel in kernels:
        address = f"{url}/api/kernels/{kernel['id']}?token={_TOKEN}"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=20).close()
