"""The smallest engine: a job is a process of this machine, and so is each of its ranks."""

import os
import subprocess
import sys
import time
from pathlib import Path

from lightning_magics.clusters import Engine, Resources, State
from lightning_magics.launch.rank import variables
from lightning_magics.launch.supervision import ENDED_AT_ONCE, Supervision, as_job, death_message, meet
from lightning_magics.runs.folder import RunFolder


class Toy(Engine):
    name = "toy"
    about = "processes of this machine"

    def resources(self, nodes, devices, accelerator, parameters):
        return Resources(self.name, nodes, int(devices or 1), parameters=parameters)

    def submit(self, resources, folder):
        call = f"import toy_engine; toy_engine.job({str(folder)!r}, {resources.nodes}, {resources.processes})"
        environment = {**os.environ, **variables(sys.path)}
        return str(subprocess.Popen([sys.executable, "-c", call], env=environment, start_new_session=True).pid)

    def state(self, job):
        status = Path(f"/proc/{job}/stat")
        return State("running" if status.exists() and ") Z " not in status.read_text() else "ended")

    def cancel(self, job):
        os.kill(int(job), 15)


class Ranks(Supervision):
    def start(self):
        self.processes = []
        for rank in range(self.ranks):
            command = [sys.executable, "-m", "lightning_magics.launch.rank", str(self.folder.path)]
            with self.folder.log_path(rank).open("a") as log:
                own = {**os.environ, "RANK": str(rank)}
                self.processes.append(subprocess.Popen(command, env=own, stdout=log, stderr=log))

    def watch(self, control):
        while not control.is_abort_requested() and None in (codes := [process.poll() for process in self.processes]):
            if any(codes):
                return self.why({n: death_message(n, self.ranks, code, False) for n, code in enumerate(codes) if code})
            time.sleep(0.2)
        return ENDED_AT_ONCE if control.is_abort_requested() else ""

    def end(self):
        for process in self.processes:
            process.kill()


def job(folder, nodes, each):
    with as_job(RunFolder(folder), Toy.name, str(os.getpid())):
        meet(nodes * each, each)
        Ranks(RunFolder(folder), nodes * each).run()
