from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from lightning_magics.errors import RunError
from lightning_magics.launch.follow import Follower
from lightning_magics.runs import catalog, events, removal
from lightning_magics.runs import folder as runs
from lightning_magics.runs.record import FORMAT, RunRecord

RECORD = RunRecord(run="Net/version_0", verb="fit", model="Net", status="running", started=1.0)


def test_runs_are_numbered_from_zero_by_verb(tmp_path):
    assert [runs.create(tmp_path, "Net").name for _ in range(2)] == ["Net/version_0", "Net/version_1"]
    assert runs.create(tmp_path, "Net", "test").name == "Net/test_0"
    assert runs.create(tmp_path, "Net").name == "Net/version_2"


def test_next_number_follows_the_highest_even_with_gaps_and_strange_names(tmp_path):
    for name in ("version_7", "version_x", "version_10.bak", "notes"):
        (tmp_path / "Net" / name).mkdir(parents=True)
    assert runs.create(tmp_path, "Net").name == "Net/version_8"


def test_run_folder_is_readable_by_its_owner_alone(tmp_path):
    assert stat.S_IMODE(runs.create(tmp_path, "Net").path.stat().st_mode) == 0o700


def _create(root, barrier, found):
    barrier.wait()
    found.put([runs.create(root, "Net").name for _ in range(20)])


def test_processes_that_start_at_once_get_different_numbers(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_create, args=(tmp_path, barrier, found)) for _ in range(3)]
    for worker in workers:
        worker.start()
    names = [name for _ in workers for name in found.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert len(set(names)) == 60


def test_record_survives_its_file(tmp_path):
    folder = runs.create(tmp_path, "Net")
    record = dataclasses.replace(RECORD, status="completed", metrics={"val_loss": 0.5}, seed=7)
    folder.write(record)
    assert folder.read() == record
    assert json.loads(folder.record_path.read_text())["format"] == FORMAT


def test_record_is_complete_at_every_moment(tmp_path):
    folder = runs.create(tmp_path, "Net")
    folder.write(RECORD)
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            folder.write(dataclasses.replace(RECORD, reason="x" * 100_000))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert folder.read().model == "Net"
    finally:
        stop.set()
        writer.join()
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": 3}'])
def test_broken_record_is_named(tmp_path, text):
    folder = runs.create(tmp_path, "Net")
    folder.record_path.write_text(text)
    with pytest.raises(RunError, match="the run Net/version_0 has no readable record"):
        folder.read()


def test_run_is_found_by_name_and_by_path(tmp_path):
    folder = runs.create(tmp_path, "Net")
    folder.write(RECORD)
    assert runs.find(tmp_path, "Net/version_0").path == folder.path
    assert runs.find("elsewhere", str(folder.path)).path == folder.path
    with pytest.raises(
        RunError, match=r"no run 'Net/version_9' was found. Did you mean 'Net/version_0'\? .* Net/version_0\."
    ):
        runs.find(tmp_path, "Net/version_9")


def test_names_are_in_the_order_of_the_start_the_newest_first(tmp_path):
    for started, model in ((2.0, "A"), (3.0, "B"), (1.0, "C")):
        runs.create(tmp_path, model).write(dataclasses.replace(RECORD, started=started))
    runs.create(tmp_path, "D").record_path.write_text("{")
    assert runs.names(tmp_path) == ["B/version_0", "A/version_0", "C/version_0"]
    assert runs.newest(tmp_path).name == "B/version_0"
    with pytest.raises(RunError, match="no run was found in"):
        runs.newest(tmp_path / "nowhere")


def test_a_run_is_alive_while_a_process_holds_its_lock(tmp_path):
    folder = runs.create(tmp_path, "Net")
    running = dataclasses.replace(RECORD, status="running")
    assert not folder.is_alive()
    held = folder.lock()
    assert folder.is_alive()
    assert folder.status(running) == "running"
    os.close(held)
    assert not folder.is_alive()
    assert folder.status(running) == "failed"
    assert folder.status(dataclasses.replace(RECORD, status="completed")) == "completed"


def test_latest_is_the_highest_number(tmp_path):
    for _ in range(11):
        runs.create(tmp_path, "Net").write(RECORD)
    assert runs.latest(tmp_path, "Net").name == "Net/version_10"
    with pytest.raises(RunError, match="no run of Other was found"):
        runs.latest(tmp_path, "Other")


def test_place_that_cannot_be_written_says_how_to_choose_another(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be created in .*%config LightningMagics.run_dir"):
        runs.create(tmp_path / "file", "Net")


def test_full_disk_ends_the_record_of_progress_and_not_the_run():
    writer = runs.EventWriter(runs.Path("/dev/full"))
    notice = events.Notice("x" * 10_000)
    for _ in range(3):
        writer.write(notice)
    writer.close()
    assert "progress is no longer recorded on disk: [Errno 28] No space left on device" in writer.failure


def test_written_events_are_read_back(tmp_path):
    writer = runs.EventWriter(tmp_path / "events.jsonl")
    told = [events.Notice("a"), events.Notice("b")]
    for event in told:
        writer.write(event)
    writer.close()
    writer.close()
    assert [events.from_json(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()] == told


def test_a_run_stays_where_it_is_when_the_working_folder_changes(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = runs.create("logs", "Net")
    folder.write(RECORD)
    found = [runs.find("logs", "Net/version_0"), runs.find("x", "logs/Net/version_0"), runs.latest("logs", "Net")]
    monkeypatch.chdir(tmp_path / "sub")
    assert [item.read() for item in [folder, *found]] == [RECORD] * 4


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = runs.create("~/runs", "Net")
    folder.write(RECORD)
    assert folder.path == tmp_path / "home/runs/Net/version_0"
    assert runs.find("~/runs", "Net/version_0").path == runs.latest("~/runs", "Net").path == folder.path
    assert runs.find("x", "~/runs/Net/version_0").path == folder.path


def test_a_path_below_the_working_folder_is_shown_relative_to_it(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    folder = runs.create("logs", "Net")
    assert runs.display_path(folder.path) == "logs/Net/version_0"
    monkeypatch.chdir(tmp_path / "sub")
    assert runs.display_path(folder.path) == str(folder.path)
    assert runs.display_path("logs/Net") == "logs/Net"


def test_latest_finds_a_model_whose_name_cannot_name_a_folder(tmp_path):
    folder = runs.create(tmp_path, "Net[int]")
    folder.write(RECORD)
    assert runs.latest(tmp_path, "Net[int]").path == folder.path


def test_text_that_utf8_cannot_hold_is_recorded(tmp_path):
    folder = runs.create(tmp_path, "Net")
    record = dataclasses.replace(RECORD, error="ValueError: bad \udce9")
    folder.write(record)
    assert folder.read() == record
    writer, told = runs.EventWriter(folder.events_path), events.Ended("failed", 1.0, error=record.error)
    writer.write(told)
    writer.close()
    assert events.from_json(folder.events_path.read_text()) == told
    runs.write_text(folder.source_path, "x = '\udce9'\n")
    assert folder.source_path.read_text() == "x = '\\udce9'\n"


def test_events_that_can_never_be_written_say_why(tmp_path):
    writer = runs.EventWriter(tmp_path / "no-such-folder" / "events.jsonl")
    assert "progress is no longer recorded on disk: [Errno 2]" in writer.failure
    writer.write(events.Notice("a"))
    writer.close()


def test_a_run_is_alive_when_it_cannot_be_told(tmp_path, monkeypatch):
    folder = runs.create(tmp_path, "Net")
    held = folder.lock()

    def refused(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        assert folder.is_alive()
    os.close(held)
    assert not folder.is_alive()
    assert not runs.RunFolder(folder.events_path / "below a file").is_alive()


def test_an_event_can_be_read_at_once_and_after_half_a_line(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "Step", "sta')
    writer, told = runs.EventWriter(path), events.Notice("a")
    writer.write(told)
    assert events.from_json(path.read_text().splitlines()[1]) == told
    writer.write(told)
    assert len(path.read_text().splitlines()) == 3
    writer.close()
    writer = runs.EventWriter(path)
    writer.write(told)
    writer.close()
    assert len(path.read_text().splitlines()) == 4


def test_a_run_of_another_machine_is_believed_as_long_as_it_tells_something(tmp_path):
    folder = runs.create(tmp_path, "Net")
    folder.write(dataclasses.replace(RECORD, host="another", pid=1))
    folder.events_path.touch()
    assert folder.is_elsewhere()
    assert folder.status(folder.read()) == "running"
    os.utime(folder.events_path, (0, time.time() - 3600))
    assert folder.status(folder.read()) == "failed"
    folder.write(dataclasses.replace(RECORD, host="another", pid=1, status="completed"))
    assert not folder.is_alive()


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    folder = runs.create(tmp_path, "Net")

    def refused(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(runs.fcntl, "flock", refused)
    os.close(folder.lock())
    assert not folder.is_alive()  # there is no record
    folder.write(RECORD)
    assert folder.is_alive()
    folder.write(dataclasses.replace(RECORD, status="completed"))
    assert not folder.is_alive()


def test_only_a_folder_that_is_gone_is_removed(tmp_path, monkeypatch):
    folder = runs.create(tmp_path, "Net")
    assert folder.is_removed()
    os.close(folder.lock())
    assert not folder.is_removed()

    def stale(path: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "stat", stale)
    assert not folder.is_removed()


def test_a_job_of_a_cluster_is_alive_until_its_record_says_otherwise(tmp_path):
    folder = runs.create(tmp_path, "Digits")
    record = RunRecord(folder.name, "fit", "Digits", "running", 0.0)
    folder.write(record)
    folder.events_path.touch()
    os.utime(folder.events_path, (0, 0))  # it may wait in its queue for days
    assert (folder.cluster_engine(), folder.cluster_job_id()) == ("", "")
    assert not folder.is_alive()
    folder.write_submission("slurm", "17")
    assert (folder.cluster_engine(), folder.cluster_job_id(), folder.yields()) == ("slurm", "17", 0)
    assert folder.is_alive()
    folder.write_submission("slurm", "17", yields=2)
    assert folder.yields() == 2
    folder.write(dataclasses.replace(record, status="completed"))
    assert not folder.is_alive()


def test_a_submission_that_cannot_be_read_is_none(tmp_path):
    folder = runs.create(tmp_path, "Digits")
    folder.submission_path.write_text("[1")
    assert (folder.cluster_job_id(), folder.yields()) == ("", 0)


def test_a_record_that_is_a_pipe_a_device_or_huge_is_not_read(tmp_path):
    folders = [runs.create(tmp_path, "Net") for _ in range(4)]
    pipe, device, huge, other = folders
    os.mkfifo(pipe.record_path)
    device.record_path.symlink_to("/dev/zero")
    with huge.record_path.open("wb") as file:
        file.truncate(1 << 30)
    for folder, problem in ((pipe, "not a regular file"), (device, "not a regular file"), (huge, "too large")):
        with pytest.raises(RunError, match=problem):
            folder.read()
    other.write(dataclasses.replace(RECORD, run=other.name))
    for path in (other.events_path, other.submission_path, other.log_path(0)):
        os.mkfifo(path)
    assert runs.names(tmp_path) == [other.name]
    rows = catalog.rows(tmp_path)
    assert [row.problem != "" for row in rows if row.path != other.path] == [True] * 3
    assert [row.status for row in rows if row.path == other.path] == ["failed"]
    assert not [event for event in Follower(other).read(last=True) if not isinstance(event, events.Watched)]


def test_records_that_are_listed_share_what_is_equal_in_them(tmp_path):
    for _ in range(3):
        folder = runs.create(tmp_path, "Net")
        options = {"max_epochs": 3 if folder.path.name == "version_2" else 1}
        folder.write(dataclasses.replace(RECORD, run=folder.name, trainer={"precision": "32"}, options=options))
    found = {row.run: row.record for row in catalog.rows(tmp_path)}
    first, second, third = (found[f"Net/version_{number}"] for number in range(3))
    assert first.trainer is second.trainer is third.trainer
    assert first.options is second.options
    assert (first.options, third.options) == ({"max_epochs": 1}, {"max_epochs": 3})


KILLED = """
import os, signal, sys
from lightning_magics.runs import folder as runs
os.rename = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
runs.create(sys.argv[1], "Net", "fit", runs.RunRecord("", "fit", "Net", "running", 1.0))
"""


def test_a_kernel_that_is_killed_while_it_makes_a_folder_leaves_none_that_is_not_listed(tmp_path):
    ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not list((tmp_path / "Net").glob("[!.]*"))
    [left] = (tmp_path / "Net").iterdir()
    folder = runs.create(tmp_path, "Net", "fit", RECORD)
    assert left.exists()  # another kernel may be making it
    assert folder.read().run == folder.name == "Net/version_0"
    assert [row.run for row in catalog.rows(tmp_path)] == runs.names(tmp_path) == ["Net/version_0"]
    os.utime(left, (1, 1))
    runs.create(tmp_path, "Net", "fit", RECORD)
    assert not left.exists()


def test_a_folder_appears_on_file_systems_that_rename_files_alone_or_lose_an_answer(tmp_path, monkeypatch):
    rename = os.rename

    def of_files(source, target):
        if os.path.isdir(source):
            raise OSError(errno.ENOTSUP, "Operation not supported")
        rename(source, target)

    def lost(source, target):
        rename(source, target)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    for number, patched in enumerate((of_files, of_files, lost, rename)):
        monkeypatch.setattr(os, "rename", patched)
        folder = runs.create(tmp_path, "Net", "fit", RECORD)
        assert folder.read().run == folder.name == f"Net/version_{number}"
        assert folder.checkpoints_path.is_dir()
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert not list((tmp_path / "Net").glob(".*"))


def test_a_record_without_a_lock_is_that_of_a_run_that_starts_or_has_failed(tmp_path):
    starting = runs.create(tmp_path, "Net", "fit", dataclasses.replace(RECORD, started=time.time() - 5))
    died = runs.create(tmp_path, "Net", "fit", dataclasses.replace(RECORD, started=time.time() - 300))
    found = {row.run: row for row in catalog.rows(tmp_path)}
    assert {name: row.status for name, row in found.items()} == {starting.name: "running", died.name: "failed"}
    with pytest.raises(RunError, match=r"^Net/version_0 is running\. Stop it first"):
        removal.delete(tmp_path, [found[starting.name]])
    removal.delete(tmp_path, [found[died.name]])
    assert runs.names(tmp_path) == [starting.name]
