from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import nbclient
import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from simulated import fit, spawned

from lightning_magics.views import report
from lightning_magics.views.state import RunState
from lightning_magics.views.view import Pace, QuietView, open_view

FIT = """
view = views.open_view(log_dir="logs/Digits/version_3")
for event in fit(epochs=3):
    view.handle(event)
view.close()
view.close()
"""
MANY_STEPS = """
import time
from lightning_magics.runs.events import Metrics, Started, Step
view = views.open_view()
view.handle(Started("Digits/version_3", "fit", 0.0, max_epochs=1))
begun, sent = time.perf_counter(), 0
while time.perf_counter() - begun < 3:
    now = time.perf_counter() - begun
    if sent < 2000 * now:
        sent += 1
        view.handle(Step("train", 0, sent, 9999, sent, now, 10**9, {"train_loss": 1 / sent, "train_accuracy": now}))
        if sent % 100 == 0:
            view.handle(Metrics(sent // 100, sent, now, {"val_loss": 1 / sent}, epoch_done=True))
print("steps", sent)
view.close()
"""


@pytest.fixture(scope="module")
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a real kernel that has the view and the simulated fit."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        setup = f"import sys; sys.path.insert(0, {str(request.path.parents[1])!r})\n"
        client.execute_interactive(
            setup + "from simulated import fit, spawned; from lightning_magics.views import view as views",
            allow_stdin=False,
        )
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def messages(kernel: Any, code: str, *, interactive: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Run code as a front end with a person before it does, or as one without; return what it published.

    What is printed may come in several messages on a busy machine; as a front end does, they are put together.
    """
    found: list[tuple[str, dict[str, Any]]] = []

    def take(message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream" and found and found[-1][0] == kind and found[-1][1]["name"] == content["name"]:
            found[-1][1]["text"] += content["text"]
        else:
            found.append((kind, content))

    reply = kernel.execute_interactive(
        code,
        allow_stdin=interactive,
        timeout=60,
        output_hook=take,
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return [item for item in found if item[0] not in ("status", "execute_input")]


def test_at_the_end_static_html_takes_the_place_of_the_widgets_and_none_is_left(kernel):
    found = messages(kernel, FIT)
    (shown,) = [content for kind, content in found if kind == "display_data"]
    (update,) = [content for kind, content in found if kind == "update_display_data"]
    assert set(shown["data"]) == {"application/vnd.jupyter.widget-view+json", "text/plain"}
    assert shown["data"]["text/plain"].startswith("Digits · version_3")
    assert set(update["data"]) == {"text/html", "text/plain"}
    assert update["transient"] == shown["transient"]
    assert "completed: 3 epochs" in update["data"]["text/plain"]
    opened = {content["comm_id"] for kind, content in found if kind == "comm_open"}
    closed = {content["comm_id"] for kind, content in found if kind == "comm_close"}
    assert opened == closed != set()
    assert {kind for kind, _ in found} <= {
        "comm_open",
        "comm_msg",
        "comm_close",
        "display_data",
        "update_display_data",
    }


def test_the_live_view_works_from_another_thread(kernel):
    body = "".join(f"    {line}\n" for line in FIT.splitlines())
    code = (
        f"import threading\ndef work():\n{body}\nthread = threading.Thread(target=work)\nthread.start()\nthread.join()"
    )
    kinds = [kind for kind, _ in messages(kernel, code)]
    assert kinds.count("display_data") == kinds.count("update_display_data") == 1


def test_thousands_of_steps_a_second_send_at_most_ten_messages_a_second(kernel):
    found = messages(kernel, MANY_STEPS)
    (printed,) = [content["text"] for kind, content in found if kind == "stream"]
    assert int(printed.split()[1]) > 500  # however slow the machine, far more steps than messages
    updates = [content for kind, content in found if kind == "comm_msg"]
    assert 3 <= len(updates) <= 30
    assert len(found) - 1 <= 30 + 12  # the widgets come and go once


def test_a_run_that_raised_leaves_its_report(kernel):
    code = """
view = views.open_view()
for event in list(fit(epochs=2))[:14]:
    view.handle(event)
view.close()
"""
    (update,) = [content for kind, content in messages(kernel, code) if kind == "update_display_data"]
    assert "failed in epoch 2: ended unexpectedly" in update["data"]["text/plain"]


BREAKING = """
from lightning_magics.views import report
def broken(*state):
    raise RuntimeError("drawing broke")
def run(name, until):
    kept = getattr(report, name)
    setattr(report, name, broken)
    view = views.open_view()
    for place, event in enumerate(fit(epochs=1)):
        if place == until:
            setattr(report, name, kept)
        try:
            view.handle(event)
        except RuntimeError:
            print("handle raised")
    try:
        view.close()
    except RuntimeError:
        print("close raised")
    view.close()
    setattr(report, name, kept)
"""


@pytest.mark.parametrize(
    ("call", "printed", "shown"),
    [
        ("run('html', -1)", "", {"text/plain"}),
        ("run('html_status', 1)", "handle raised\n", {"text/html", "text/plain"}),
        ("run('text', 1)", "handle raised\n", {"text/html", "text/plain"}),
        ("run('mimebundle', -1)", "close raised\n", None),
    ],
)
def test_whatever_cannot_be_drawn_no_widget_is_left(kernel, call, printed, shown):
    found = messages(kernel, BREAKING + call)
    opened = {content["comm_id"] for kind, content in found if kind == "comm_open"}
    assert opened <= {content["comm_id"] for kind, content in found if kind == "comm_close"}
    assert "".join(content["text"] for kind, content in found if kind == "stream") == printed
    reports = [
        content
        for kind, content in found
        if kind in ("display_data", "update_display_data") and "completed: 1 epoch" in content["data"]["text/plain"]
    ]
    assert [set(content["data"]) for content in reports] == ([] if shown is None else [shown])


def test_a_view_that_saw_no_run_shows_nothing(kernel):
    for interactive in (True, False):
        assert messages(kernel, "views.open_view().close()", interactive=interactive) == []


def test_without_a_person_there_is_only_the_result(kernel):
    ((kind, content),) = messages(kernel, FIT, interactive=False)
    assert kind == "display_data"
    assert set(content["data"]) == {"text/html", "text/plain"}


def test_quiet_leaves_one_line(kernel):
    ((kind, content),) = messages(kernel, FIT.replace("open_view(", "open_view(quiet=True, "))
    assert kind == "stream"
    assert content["text"] == (
        "Digits/version_3 · completed: 3 epochs, 1,980 steps in 2.0 s · "
        "best val_accuracy 0.9168 in epoch 2 (higher is better)\n"
    )


def test_without_ipywidgets_lines_of_text_say_what_to_install(kernel):
    code = f"""
kept = {{name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "ipywidgets"}}
sys.modules["ipywidgets"] = None
try:
{"".join(f"    {line}{chr(10)}" for line in FIT.splitlines())}
finally:
    sys.modules.update(kept)
"""
    text = "".join(content["text"] for kind, content in messages(kernel, code) if kind == "stream")
    assert re.match(r"No live view: ipywidgets cannot be imported \(.*\)\. Type: %pip install ipywidgets\n", text)
    assert "    2     0.07136    0.1108        0.9168     0.7 s\n" in text
    assert "\r" not in text


def test_an_executed_notebook_holds_the_report_and_no_widget(request):
    setup = f"import sys; sys.path.insert(0, {str(request.path.parents[1])!r})"
    code = f"{setup}\nfrom simulated import fit\nfrom lightning_magics.views import view as views\n{FIT}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    assert "widgets" not in notebook.metadata


def test_a_script_prints_the_report_at_its_end(request):
    setup = f"import sys; sys.path.insert(0, {str(request.path.parents[1])!r})"
    code = f"{setup}\nfrom simulated import fit\nfrom lightning_magics.views import view as views\n{FIT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    state = RunState("logs/Digits/version_3")
    for event in fit(epochs=3):
        state.apply(event)
    assert done.stdout == report.text(state) + "\n"
    assert done.stderr == ""


@pytest.mark.parametrize("close", [False, True])
def test_a_process_without_output_has_a_view(monkeypatch, close):
    stream = io.StringIO() if close else None
    if stream:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    assert isinstance(open_view(), QuietView)


def test_drawing_that_is_slow_is_done_less_often():
    begun = time.perf_counter()
    pace = Pace(every_s=0.0, share=0.01)
    with pace.drawing():
        time.sleep(0.02)
    assert pace.due >= begun + 0.02 / 0.01


def test_what_shows_a_run_needs_neither_torch_nor_widgets_to_be_imported():
    code = (
        "import lightning_magics.views.view, sys\n"
        "print({'torch', 'ipywidgets', 'matplotlib', 'IPython'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


BACKGROUND = """
import threading
asked = []
view = views.open_view(log_dir="logs/Digits/version_3", background=True, on_stop=lambda: asked.append(1), refresh_s=0)
events = list(spawned(epochs=1))
view.handle(events[0])
def follow():
    for event in events[1:]:
        view.handle(event)
    view.close()
"""
FOLLOWED = BACKGROUND + "thread = threading.Thread(target=follow); thread.start(); thread.join()"


def widgets(found: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The widgets that were opened, by their comm, with the state that they ended with."""
    states: dict[str, dict[str, Any]] = {}
    for kind, content in found:
        if kind == "comm_open":
            states[content["comm_id"]] = dict(content["data"]["state"])
        elif kind == "comm_msg" and content["data"].get("method") == "update":
            states[content["comm_id"]].update(content["data"]["state"])
    return states


def test_a_background_run_opens_at_its_launch_and_ends_from_another_thread(kernel):
    found = messages(kernel, FOLLOWED)
    shown = next(content for kind, content in found if kind == "display_data")
    update = next(content for kind, content in found if kind == "update_display_data")
    assert shown["data"]["text/plain"] == "Digits · version_3 · starting 2 processes …\nlogs/Digits/version_3"
    assert "rank 1 │ 13.0 of 1" in update["data"]["text/plain"]
    assert "rank 1 │ 13.0 of 1" in update["data"]["text/html"]
    opened = {content["comm_id"] for kind, content in found if kind == "comm_open"}
    assert opened == {content["comm_id"] for kind, content in found if kind == "comm_close"}
    models = [state["_model_name"] for state in widgets(found).values()]
    assert models.count("ButtonModel") == models.count("ButtonStyleModel") == 1
    assert not any(kind == "stream" for kind, _ in found)


def test_stop_hands_on_the_wish_once_and_says_so(kernel):
    press = "button = next(w for w in view._widgets if hasattr(w, 'click'))\n"
    while_running = "for event in events[1:4]: view.handle(event)\nbutton.click()\nview.handle(events[5])\n"
    found = messages(
        kernel, BACKGROUND + press + while_running + "print(asked)\nview.close()\nbutton.click()\nprint(asked)"
    )
    assert "".join(content["text"] for kind, content in found if kind == "stream") == "[1]\n[1]\n"
    states = widgets(found).values()
    (button,) = [state for state in states if state["_model_name"] == "ButtonModel"]
    assert (button["description"], button["disabled"]) == ("Stop", True)
    assert any("stopping after this batch …" in state.get("value", "") for state in states)
    assert not any("interrupt the kernel" in str(content) for _, content in found)


def test_stop_that_is_refused_says_why(kernel):
    refuse = (
        "from lightning_magics.errors import RunError\n"
        "def refuse(): raise RunError('Digits/version_3 runs on another')\n"
        "view._on_stop = refuse\n"
    )
    press = "button = next(w for w in view._widgets if hasattr(w, 'click'))\nbutton.click()\nview.close()"
    found = messages(kernel, f"{BACKGROUND}for event in events[1:4]: view.handle(event)\n{refuse}{press}")
    states = widgets(found).values()
    (button,) = [state for state in states if state["_model_name"] == "ButtonModel"]
    assert not button.get("disabled")
    assert any("Digits/version_3 runs on another" in state.get("value", "") for state in states)


def test_without_a_button_the_hint_stays_and_the_start_is_drawn_at_once(kernel):
    code = "view = views.open_view(refresh_s=99)\nfor event in list(spawned(lines=0))[:2]: view.handle(event)"
    found = messages(kernel, code)
    states = widgets(found).values()
    assert not any(state["_model_name"] == "ButtonModel" for state in states)
    (status,) = [state["value"] for state in states if "Digits" in state.get("value", "")]
    assert "preparing …" in status
    assert "interrupt the kernel (■) to stop after the current batch" in status
    messages(kernel, "view.close()")


IN_BACKGROUND = (
    "Digits/version_3 is running in the background. "
    "%lightning_attach Digits/version_3 shows it, %lightning_stop Digits/version_3 stops it.\n"
)


@pytest.mark.parametrize(("changed", "interactive"), [("", False), ("quiet=True, ", True)])
def test_in_the_background_without_a_live_view_there_is_one_line_at_the_launch(kernel, changed, interactive):
    code = FOLLOWED.replace("open_view(", f"open_view({changed}")
    ((kind, content),) = messages(kernel, code, interactive=interactive)
    assert (kind, content["text"]) == ("stream", IN_BACKGROUND)


def test_a_script_in_the_background_says_what_to_call(capsys):
    view = open_view(background=True)
    for event in spawned(epochs=1):
        view.handle(event)
    view.close()
    assert capsys.readouterr().out == (
        "Digits/version_3 is running in the background. run.wait() waits until it ends, run.stop() stops it.\n"
    )
    assert view.state.ended.status == "completed"


@pytest.mark.parametrize(("quiet", "shown"), [(False, True), (True, False)])
def test_what_ranks_printed_is_in_the_result_but_not_in_a_single_line(capsys, quiet, shown):
    view = open_view(quiet=quiet)
    for event in spawned(epochs=1):
        view.handle(event)
    view.close()
    assert ("rank 1 │ 13.0 of 1" in capsys.readouterr().out) is shown


def test_a_run_that_failed_before_it_began_is_shown_as_failed(kernel):
    (_, _), (_, update) = [
        item
        for item in messages(kernel, "view = views.open_view()\nview.handle(next(spawned()))\nview.close()")
        if item[0] in ("display_data", "update_display_data")
    ]
    assert update["data"]["text/plain"] == "Digits · version_3 · 2 processes\nfailed: ended before it started"
