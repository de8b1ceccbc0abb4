"""What a supervisor says of ranks that died, and what it is asked."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from lightning_magics.launch.supervision import death_message, remove_temporary_files
from lightning_magics.launch.supervisor import SupervisorRequest, oom_kills
from lightning_magics.runs.folder import RunFolder
from lightning_magics.transport.children import start_interpreter


@pytest.mark.parametrize(
    ("code", "out_of_memory", "message"),
    [
        (3, False, "rank 1 of 2 exited with code 3"),
        (0, False, "rank 1 of 2 exited with code 0 before the run was complete"),
        (-11, False, "rank 1 of 2 was killed by SIGSEGV"),
        (-11, True, "rank 1 of 2 was killed by SIGSEGV"),
        (-9, True, "rank 1 of 2 was killed by SIGKILL: the machine ran out of memory"),
        (
            -9,
            False,
            "rank 1 of 2 was killed by SIGKILL (often because the machine ran out of memory)",
        ),
        (-40, False, "rank 1 of 2 was killed by signal 40"),
    ],
)
def test_a_death_names_the_rank_and_how_it_came(code: int, out_of_memory: bool, message: str) -> None:
    assert death_message(1, 2, code, out_of_memory) == message


def test_the_only_process_of_a_run_has_no_rank() -> None:
    assert death_message(0, 1, 3, False) == "the process of the run exited with code 3"


def test_kills_for_want_of_memory_are_counted_where_the_system_tells_them(tmp_path: Path) -> None:
    group, machine = tmp_path / "memory.events", tmp_path / "vmstat"
    group.write_text("low 0\nhigh 0\nmax 4\noom 2\noom_kill 2\n")
    machine.write_text("nr_free_pages 100\noom_kill 3\n")
    assert oom_kills(str(group), str(machine)) == 5
    group.write_text("low 0\n")
    assert oom_kills(str(group), str(machine)) == 3
    assert oom_kills(str(tmp_path / "none"), str(tmp_path / "none")) == 0


def test_a_request_is_one_line_that_holds_the_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_KERNEL", "two\nlines \udcff")
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    request = SupervisorRequest.of(Path("run"), 2, background=True)
    line = request.line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert SupervisorRequest(**json.loads(line)) == request
    assert request.folder == str(tmp_path / "run")
    assert request.cwd == str(tmp_path)
    assert request.path[0] == str(tmp_path / "own")
    assert request.environment["OF_THE_KERNEL"] == "two\nlines \udcff"


def test_a_path_that_is_no_text_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [tmp_path, "/text"])
    assert json.loads(SupervisorRequest.of(tmp_path, 1, background=False).line())["path"] == [str(tmp_path), "/text"]
    started = start_interpreter("print(sys.path[:2])", (), subprocess.PIPE, dict(os.environ))
    assert started.communicate(timeout=60)[0].decode().strip() == str([str(tmp_path), "/text"])


def test_what_only_the_processes_needed_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    kept = [folder.record_path, folder.log_path(0), folder.predictions_path, folder.error_path(1)]
    gone = [folder.job_path, folder.control_path, tmp_path / "predictions_1.pt"]
    gone += [tmp_path / ".run.json.x1", tmp_path / ".error_0.pkl.x2"]
    for path in (*kept, *gone):
        path.write_text("")
    remove_temporary_files(folder)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
