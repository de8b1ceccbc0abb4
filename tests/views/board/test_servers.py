"""TensorBoard's servers, for real on this machine, and where a board is shown."""

import os
import signal
import socket
import sys
import tempfile
import time
import types
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import kernel
import psutil
import pytest
from torch.utils.tensorboard import SummaryWriter

from lightning_magics.errors import BoardError, InputError, MissingPackage, RunError
from lightning_magics.runs.folder import RunFolder
from lightning_magics.transport import children
from lightning_magics.views.board import frame, servers
from lightning_magics.views.board.servers import Board, BoardFailure, BoardSource

ASKED = frame.BoardRequest(BoardSource.of_folder("/logs"), "%lightning_board", 500)
BOARD = Board(6006, "/logs-1/", "logs")


def write_run(folder: Path) -> None:
    with SummaryWriter(folder) as writer:
        for step in range(3):
            writer.add_scalar("train_loss", 1 / (step + 1), step)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of two runs; at the end all servers end."""
    folder = tmp_path_factory.mktemp("board") / "logs"
    for version in (0, 1):
        write_run(folder / f"Digits/version_{version}")
    yield folder
    servers.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TENSORBOARD_PROXY_URL", "JUPYTERHUB_SERVICE_PREFIX", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)


def started(source: BoardSource, port: int | None = None) -> Board:
    outcome = servers.start(source, port)
    assert isinstance(outcome, Board), outcome.reason
    return outcome


def pid_of(board: Board) -> int:
    (server,) = (server for server in servers._servers.values() if server.board() == board)
    return server._process.pid


def page(board: Board, name: str = "") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{board.port}{board.path}{name}", timeout=10) as answer:
        return answer.read().decode()


def eventually(holds: Callable[[], bool], timeout_s: float = 20) -> bool:
    until = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


def test_a_folder_has_one_server_however_it_is_spelled(logs, tmp_path, monkeypatch):
    first = started(BoardSource.of_folder(logs))
    (tmp_path / "link").symlink_to(logs)
    monkeypatch.chdir(logs.parent)
    for spelled in ("logs", f"{logs}/", "logs/../logs", tmp_path / "link"):
        assert started(BoardSource.of_folder(spelled)) == first
    assert eventually(lambda: servers.has_values(first, "Digits/version_1"))
    assert 'src="live.js"' in page(first)
    assert "autoReload" in page(first, "live.js")


def test_a_server_listens_to_this_machine_alone(logs):
    board = started(BoardSource.of_folder(logs))
    found = [item.laddr for item in psutil.Process(pid_of(board)).net_connections() if item.status == "LISTEN"]
    assert [(item.ip, item.port) for item in found] == [("127.0.0.1", board.port)]


def test_a_killed_server_is_replaced_where_it_was(logs):
    first = started(BoardSource.of_folder(logs))
    killed = pid_of(first)
    os.kill(killed, signal.SIGKILL)
    second = started(BoardSource.of_folder(logs))
    assert second == first
    assert pid_of(second) != killed
    assert eventually(lambda: servers.has_values(second, "Digits/version_0"))


def test_a_server_that_is_another_by_now_is_not_taken_for_alive(logs):
    server = servers._servers[BoardSource.of_folder(logs)]
    assert server.answers()
    port, server.port = server.port, 1  # where nobody listens
    assert not server.answers()
    server.port = port


def test_some_runs_are_shown_alone_and_their_links_go_with_the_server(logs, tmp_path):
    write_run(tmp_path / "logs/Digits/version_1")  # of the same name
    places = [RunFolder(folder / "Digits/version_1") for folder in (logs, tmp_path / "logs")]
    source = BoardSource.of_places(places)
    assert source == BoardSource.of_places(reversed(places))
    board = started(source)
    names = {name for name, _ in source.places}
    assert len(names) == 2
    assert eventually(lambda: all(servers.has_values(board, name) for name in names))
    assert not servers.has_values(board, "Digits/version_0")
    links = Path(servers._servers[source]._logdir)
    assert links.is_dir()
    pid = pid_of(board)
    servers.close()
    assert not psutil.pid_exists(pid)
    assert not links.exists()


def test_no_link_is_made_through_a_link(logs, tmp_path):
    """Also where one place has the name of a folder of another."""
    write_run(tmp_path / "other/Digits/version_0")
    run, elsewhere = RunFolder(logs / "Digits/version_0"), RunFolder(tmp_path / "other/Digits/version_0")
    before = sorted(logs.rglob("*"))
    assert BoardSource.of_places([logs / "Digits", run]) == BoardSource.of_folder(
        logs / "Digits"
    )  # which shows the run
    board = started(BoardSource.of_places([logs / "Digits", run, elsewhere]))
    assert eventually(lambda: servers.has_values(board, "logs/Digits/version_0"))
    assert eventually(lambda: servers.has_values(board, "other/Digits/version_0"))
    assert sorted(logs.rglob("*")) == before


def test_names_are_those_of_the_resolved_paths(tmp_path):
    around = RunFolder(tmp_path / "a/Net/version_0/../version_1")
    assert BoardSource.of_places([around]).places == (("Net/version_1", f"{tmp_path}/a/Net/version_1"),)
    first, inner, last = Path("/y"), RunFolder("/x/y/Net"), RunFolder("/x/Net/z")
    assert [name for name, _ in BoardSource.of_places([last, inner, first]).places] == ["Net/z", "x/y/Net", "y"]
    assert BoardSource.of_places([Path("/"), last]) == BoardSource.of_folder("/")


def test_a_server_that_cannot_be_started_leaves_nothing(logs, tmp_path, monkeypatch):
    private_fds = set(children._private_fds)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome = servers.start(BoardSource.of_places([RunFolder(logs / "Digits/version_0")]))
    assert isinstance(outcome, BoardFailure)
    assert outcome.reason.startswith("TensorBoard cannot be started: [Errno 2] No such file or directory")
    assert list(tmp_path.iterdir()) == []
    assert children._private_fds == private_fds


def test_a_port_that_was_asked_for_is_taken_or_refused(logs):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        kept = started(BoardSource.of_folder(logs))
        pid = pid_of(kept)
        outcome = servers.start(BoardSource.of_folder(logs), port)
        assert outcome == BoardFailure(
            f"port {port} is in use by another program. Choose another --port, or leave it out to use a free one"
        )
        assert started(BoardSource.of_folder(logs)) == kept  # which goes on
        assert pid_of(kept) == pid
    moved = started(BoardSource.of_folder(logs), port)
    assert moved.port == port
    assert not psutil.pid_exists(pid)


def test_a_broken_tensorboard_says_how_to_repair_it(tmp_path, monkeypatch):
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard/__init__.py").write_text("raise ImportError('its insides are missing')")
    monkeypatch.syspath_prepend(tmp_path)
    assert servers.start(BoardSource.of_folder(tmp_path)) == BoardFailure(
        "TensorBoard cannot start: ImportError: its insides are missing. "
        "To repair it: %pip install --upgrade --force-reinstall tensorboard"
    )


def test_a_missing_tensorboard_says_what_to_install(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingPackage, match=r"needs the package 'tensorboard'.* Type: %pip install tensorboard"):
        shell.run_line_magic("lightning_board", "")


def test_the_frame_holds_a_sentence_for_when_its_server_is_gone():
    shown = frame.frame_bundle(BOARD, ASKED)
    assert (
        '<object data="http://127.0.0.1:6006/logs-1/" type="text/html" width="100%" height="500">' in shown["text/html"]
    )
    assert (
        "Its server stops with the kernel; <code>%lightning_board</code> starts it again.</div></object>"
        in (shown["text/html"])
    )
    assert 'TensorBoard of logs · <a href="http://127.0.0.1:6006/logs-1/" target="_blank"' in shown["text/html"]
    assert "<script" not in shown["text/html"]
    assert shown["text/plain"] == (
        "TensorBoard of logs: http://127.0.0.1:6006/logs-1/\n%lightning_board starts it again"
    )


def test_vs_code_gets_the_iframe_that_it_lets_through(monkeypatch):
    monkeypatch.setenv("VSCODE_PID", "1")
    shown = frame.frame_bundle(BOARD, ASKED)["text/html"]
    assert '<iframe id="tensorboard-frame-1776" src="http://localhost:6006/logs-1/"' in shown
    assert "<code>%lightning_board</code> starts it again" in shown


def test_a_proxy_is_used_where_there_is_one(monkeypatch):
    assert frame.address(BOARD, "Digits/version_3") == (
        "http://127.0.0.1:6006/logs-1/?runFilter=%5EDigits%2Fversion_3%24"
    )
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    assert frame.address(BOARD) == ""
    assert "Type %pip install jupyter-server-proxy" in frame.frame_bundle(BOARD, ASKED)["text/plain"]
    monkeypatch.setitem(sys.modules, "jupyter_server_proxy", types.ModuleType("jupyter_server_proxy"))
    sys.modules["jupyter_server_proxy"].__spec__ = types.SimpleNamespace()
    assert frame.address(BOARD) == "/user/ada/proxy/6006/logs-1/"
    monkeypatch.setenv("TENSORBOARD_PROXY_URL", "/proxy/%PORT%/")
    assert frame.address(BOARD) == "/proxy/6006/logs-1/"


def test_colab_serves_the_frame_through_its_own_proxy(monkeypatch):
    served = []
    output = types.ModuleType("google.colab.output")
    output.serve_kernel_port_as_iframe = lambda *given, **named: served.append((given, named))
    colab = types.ModuleType("google.colab")
    colab.output = output
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    assert "%lightning_board shows it" in frame._in_colab(BOARD, ASKED)["text/plain"]
    assert served == [((6006,), {"path": "/logs-1/", "height": "500"})]


def test_a_terminal_gets_the_link(shell, logs, capsys):
    shell.run_line_magic("lightning_board", f"{logs}")
    board = started(BoardSource.of_folder(logs))
    assert capsys.readouterr().out == f"TensorBoard of {logs}: http://127.0.0.1:{board.port}{board.path}\n"


def test_a_folder_is_found_below_the_home(shell, logs, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(logs.parent))
    shell.run_line_magic("lightning_board", "~/logs")
    assert f"TensorBoard of {logs}: " in capsys.readouterr().out


def test_what_cannot_be_shown_is_said_before_anything_starts(shell, tmp_path):
    servers.close()
    shell.run_cell("import lightning_magics")
    with pytest.raises(RunError, match="no run 'Digits/version_3' was found"):
        shell.run_line_magic("lightning_board", "Digits/version_3")
    (tmp_path / "lightning_logs/Digits/version_0").mkdir(parents=True)
    (tmp_path / "lightning_logs/Digits/version_0/run.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"Digits/version_0 has no TensorBoard logs\. To write them, fit with --logger"
    ):
        shell.run_line_magic("lightning_board", "Digits/version_0")
    with pytest.raises(InputError, match="--port takes a whole number of at most 65535; found 70000"):
        shell.run_line_magic("lightning_board", "--port 70000")
    with pytest.raises(InputError, match="'ports' is not an argument of board"):
        shell.ev("lightning_magics.board(ports=1)")
    assert not servers._servers


def test_a_server_that_fails_is_an_error_of_the_cell(shell, tmp_path):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        with pytest.raises(BoardError, match="is in use by another program"):
            shell.run_line_magic("lightning_board", f"--port {stranger.getsockname()[1]}")


NET = """%%lightning_model Net --loss mse_loss
import torch
torch.nn.Linear(2, 1)
"""


def test_a_fit_in_a_terminal_tells_where_its_board_is(shell, capsys):
    shell.run_cell(NET)
    shell.run_cell("data = torch.utils.data.DataLoader([(torch.ones(2), torch.ones(1))] * 4)")
    with pytest.raises(InputError, match="--board needs the TensorBoard logger, which this fit does not use"):
        shell.run_line_magic("lightning_fit", "Net data --max_epochs 1 --board --logger csv")
    assert not Path("lightning_logs").exists()
    shell.run_line_magic("lightning_fit", "Net data --max_epochs 1 --board --quiet")
    (server,) = servers._servers.values()
    board = server.board()
    link = f"http://127.0.0.1:{board.port}{board.path}?runFilter=%5ENet%2Fversion_0%24"
    assert f"TensorBoard of lightning_logs: {link}\n" in capsys.readouterr().out
    assert eventually(lambda: servers.has_values(board, "Net/version_0"))


# --- in a real kernel


@pytest.fixture
def running(tmp_path: Path) -> Iterator[kernel.Kernel]:
    write_run(tmp_path / "lightning_logs/Digits/version_0")
    running = kernel.Kernel(tmp_path)
    running.run("%load_ext lightning_magics", "import lightning_magics.views.board.servers as boards")
    yield running
    running.stop()


def pids(running: kernel.Kernel) -> list[int]:
    return running.value("[server._process.pid for server in boards._servers.values()]")


def test_a_server_ends_with_its_kernel_and_survives_its_interrupts(running):
    cell = running.cell("%lightning_board --height 640")
    (shown,) = cell.outputs
    assert 'type="text/html" width="100%" height="640">' in shown["text/html"]
    assert [item["msg_type"] for item in cell.messages if "data" in item["content"]] == [
        "display_data",  # "Starting TensorBoard …", which it takes the place of
        "update_display_data",
    ]
    (pid,) = pids(running)
    family = [pid, *(child.pid for child in psutil.Process(pid).children())]  # with TensorBoard's data server
    running.manager.interrupt_kernel()
    running.run("boards.start(*boards._servers)")
    assert pids(running) == [pid]
    os.kill(running.value("__import__('os').getpid()"), signal.SIGKILL)
    assert eventually(lambda: not any(psutil.pid_exists(item) for item in family))


def test_unloading_ends_the_servers(running):
    running.run("%lightning_board lightning_logs/Digits")
    (pid,) = pids(running)
    running.run("%unload_ext lightning_magics")
    assert not psutil.pid_exists(pid)


def test_nobody_gets_a_frame_where_nobody_looks(running):
    sent = running.client.execute("%lightning_board", allow_stdin=False)
    (shown,) = running.finish(sent).outputs
    assert shown["text/plain"] == "TensorBoard of lightning_logs: %lightning_board shows it in a notebook"
    assert pids(running) == []
