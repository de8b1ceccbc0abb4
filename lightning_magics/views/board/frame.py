"""Where a board is shown: in a frame of the notebook with a link under it, or as a link in a terminal.

Its server is in `servers`. What stays in a saved notebook is a sentence and the command that shows the board again.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlencode

from ...errors import BoardError
from ...shell import running_kernel, running_shell, takes_input
from ..tables import MUTED
from . import servers

_FIRST_VALUES_S = 20.0  # for a fit that begins, to write its first values
_NO_PROXY = (
    "On JupyterHub, the browser cannot reach TensorBoard without a proxy. Type %pip install jupyter-server-proxy and "
    "restart your server, or set TENSORBOARD_PROXY_URL, for example to /proxy/%PORT%/"
)


@dataclass(frozen=True)
class BoardRequest:
    """How a board is to be shown.

    Attributes:
        source: what it shows.
        command: shows it again.
        height: of the frame, in pixels.
        port: for its server, the only one that will do; None for any.
        run: that it shows first; empty for all.
    """

    source: servers.BoardSource
    command: str
    height: int = 800
    port: int | None = None
    run: str = ""


def show(request: BoardRequest) -> None:
    """Show a board, once its server answers.

    Raises:
        BoardError: there is no server, and why.
    """
    _BoardOutput(request).fill()


def show_soon(request: BoardRequest) -> None:
    """Show a board as soon as its server answers, while other things go on; or say why there is none."""
    board_output = _BoardOutput(request)

    def fill() -> None:
        try:
            board_output.fill()
        except BoardError as error:
            board_output.say(str(error))

    if board_output.waits:
        threading.Thread(target=fill, name="TensorBoard", daemon=True).start()
    else:
        fill()


class _BoardOutput:
    """Where a board goes: what the cell shows until it is there, and then the board."""

    def __init__(self, request: BoardRequest) -> None:
        self._request = request
        self._handle: Any = None
        kernel = running_kernel()
        self.waits = kernel is not None and takes_input(kernel)
        if self.waits:
            self.say("Starting TensorBoard …")

    def say(self, text: str) -> None:
        """Show a text there."""
        if self.waits:
            self._show({"text/html": _muted_html(escape(text)), "text/plain": text})
        else:
            print(text)  # noqa: T201 -- the user's terminal

    def fill(self) -> None:
        """Show the board there.

        Raises:
            BoardError: there is no server; the place is empty then.
        """
        request = self._request
        if running_kernel() is not None and not self.waits:  # nobody would see the frame
            self._show(_hint_bundle(request))
            return
        board = servers.start(request.source, request.port)
        if isinstance(board, servers.BoardFailure):
            if self.waits:
                self._show({"text/plain": ""})
            raise BoardError(board.reason)
        deadline = time.monotonic() + (_FIRST_VALUES_S if request.run and self.waits else 0)
        while time.monotonic() < deadline and not servers.has_values(board, request.run):
            time.sleep(1)  # TensorBoard's page would say that there is no data
        if not self.waits:
            print(f"TensorBoard of {board.title}: {address(board, request.run) or _NO_PROXY}")  # noqa: T201 -- likewise
        elif "google.colab" in sys.modules:
            self._show(_in_colab(board, request))
        else:
            self._show(frame_bundle(board, request))

    def _show(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


def address(board: servers.Board, run: str = "", host: str = "127.0.0.1") -> str:
    """Return where a browser reaches a board; empty behind a JupyterHub that has no proxy for it.

    Args:
        board: the board.
        run: that it shows first; empty for all.
        host: this machine.
    """
    proxy, hub = os.environ.get("TENSORBOARD_PROXY_URL"), os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if proxy:
        base = proxy.replace("%PORT%", str(board.port))  # as TensorBoard itself has it
    elif not hub:
        base = f"http://{host}:{board.port}"
    elif importlib.util.find_spec("jupyter_server_proxy") is not None:
        base = f"{hub.rstrip('/')}/proxy/{board.port}"
    else:
        return ""
    return f"{base.rstrip('/')}{_page(board, run)}"


def _page(board: servers.Board, run: str) -> str:
    """The path of a board's page, with what it shows first."""
    return f"{board.path}?{urlencode({'runFilter': f'^{run}$'})}" if run else board.path


def frame_bundle(board: servers.Board, request: BoardRequest) -> dict[str, str]:
    """Return what a notebook shows: the frame, and under it a link and the command.

    An ``object`` shows what is within it where its address does not answer, and so does every reader that removes
    frames: a page of TrustedHTML, GitHub, nbconvert. VS Code lets TensorBoard through by the name of an ``iframe``.
    """
    url = address(board, request.run)
    if not url:
        return {"text/html": _muted_html(escape(_NO_PROXY)), "text/plain": _NO_PROXY}
    restart_hint = f"<code>{escape(request.command)}</code> starts it again"
    caption = f"TensorBoard of {escape(board.title)}"
    size = f'width="100%" height="{request.height}"'
    if _in_vscode():
        url = address(board, request.run, "localhost")
        frame = f'<iframe id="tensorboard-frame-{board.port:x}" src="{escape(url)}" {size} frameborder="0"></iframe>'
        caption += f"; its server stops with the kernel, {restart_hint}"
    else:
        fallback = f"TensorBoard is not responding. Its server stops with the kernel; {restart_hint}."
        frame = f'<object data="{escape(url)}" type="text/html" {size}>{_muted_html(fallback)}</object>'
    caption += f' · <a href="{escape(url)}" target="_blank" rel="noopener">open in a tab</a>'
    plain = f"TensorBoard of {board.title}: {url}\n{request.command} starts it again"
    return {"text/html": f"{frame}{_muted_html(caption)}", "text/plain": plain}


def _in_colab(board: servers.Board, request: BoardRequest) -> dict[str, str]:
    """Show a board through Colab's own proxy; returns what to show under it."""
    from google.colab import output

    output.serve_kernel_port_as_iframe(board.port, path=_page(board, request.run), height=str(request.height))
    return _hint_bundle(request)


def _hint_bundle(request: BoardRequest) -> dict[str, str]:
    """Return what tells how to see a board where there is none."""
    title, command = request.source.title, request.command
    return {
        "text/html": _muted_html(
            f"TensorBoard of {escape(title)}: <code>{escape(command)}</code> shows it in a notebook"
        ),
        "text/plain": f"TensorBoard of {title}: {command} shows it in a notebook",
    }


def _in_vscode() -> bool:
    names = getattr(running_shell(), "user_ns", {})
    return "__vsc_ipynb_file__" in names or "VSCODE_PID" in os.environ


def _muted_html(html: str) -> str:
    return f'<div style="{MUTED}">{html}</div>'
