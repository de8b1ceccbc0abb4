"""A Slurm cluster on this machine for tests: two hosts with their own network, and Slurm over them.

A host is a set of Linux namespaces (network, host name, mounts), held by one process. All of a cluster's names, ports
and addresses are within its namespaces, so that several clusters go on side by side; what it starts ends with it.
"""

import contextlib
import functools
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from kernel import Kernel

HOSTS = {"n1": "10.77.0.1", "n2": "10.77.0.2"}
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "unshare", "nsenter", "ip", "setpriv")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "mariadb")
COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun", "salloc", "sacct")
CPUS = 4  # of each node, as Slurm is told
CONF = """
ClusterName=test
SlurmctldHost=n1
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=20
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=5
MessageTimeout=10
SlurmctldTimeout=30
SlurmdTimeout=20
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
GresTypes=gpu
NodeName=n[1-2] Port=16818 CPUs={cpus} RealMemory=8000 State=UNKNOWN
NodeName=n3 NodeHostname=n1 NodeAddr=n1 Port=16820 CPUs={cpus} RealMemory=8000 Gres=gpu:a100:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=gpu Nodes=n3 DefaultTime=10 MaxTime=60 State=UP
"""
# What a host's holder does when its input closes, as when the process that started it ends in whatever way.
SWEEP = """
here=$(readlink /proc/self/ns/net)
for one in /proc/[0-9]*; do
    [ "$(readlink $one/ns/net)" = "$here" ] && [ "$one" != "/proc/$$" ] && kill -9 "${one#/proc/}"
done
rm -rf "$0"
"""
WITHOUT_ACCOUNTING = "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
# Slurm forgets an ended job after two seconds, so that only the accounting knows it.
WITH_ACCOUNTING = """MinJobAge=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=n1
AccountingStoragePort=16819
AccountingStoragePass={folder}/munge.sock
JobAcctGatherType=jobacct_gather/linux
"""
SLURMDBD = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=n1
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageUser=slurm
StoragePass=x
StorageLoc=slurm_acct_db
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
GRANTS = "create database slurm_acct_db; create user slurm@'%' identified by 'x'; grant all on slurm_acct_db.* to slurm"


@contextlib.contextmanager
def started(accounting: bool = False) -> Iterator["Cluster"]:
    """Bring a cluster up, skip the test where that cannot be, and take it down again."""
    needed = NEEDED + (NEEDED_FOR_ACCOUNTING if accounting else ())
    missing = [name for name in needed if shutil.which(name) is None]
    if os.geteuid() != 0:
        pytest.skip("a cluster of namespaces takes root")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if subprocess.run(["unshare", "-n", "-u", "-m", "true"], check=False).returncode:
        pytest.skip("this machine gives no namespaces")
    found = Cluster(accounting)
    try:
        found.start()
        yield found
    finally:
        found.stop()


class Cluster:
    """Hosts n1 and n2, and Slurm's daemons on them: partitions main, urgent (which preempts main) and gpu.

    Node n3 of partition gpu has two GPUs as far as Slurm knows, and lives on host n1. The controller runs on n1.

    Attributes:
        folder: of its configuration, state and logs; the same on all hosts, as all of this machine's files are.
        environment: what a process on its hosts needs to find this Slurm.
        commands: Slurm's commands, which run on host n1 wherever they are called, for the path of a test.
    """

    def __init__(self, accounting: bool = False) -> None:
        self.accounting = accounting
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has 107 characters
        self.folder.chmod(0o755)
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.commands = self.folder / "bin"
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._kernels = itertools.count()

    def start(self) -> None:
        self._start_hosts()
        self._write()
        self._daemon("munged", None, *self._munged())
        self._wait(lambda: (self.folder / "munge.sock").exists(), "munged")
        if self.accounting:
            self._start_accounting()
        self._daemon("slurmctld", "n1", "slurmctld", "-D")
        for node in ("n1", "n2", "n3"):
            self._start_node(node)
        self.wait_until_idle()

    def stop(self) -> None:
        """End all that was started, and everything that runs on its hosts."""
        for daemon in reversed(self._daemons.values()):  # those that need others first
            daemon.terminate()
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for holder in self._holders.values():
            holder.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def on(self, host: str, command: Sequence[str], folder: Path | None = None) -> list[str]:
        """The command line that runs a command on a host, in a folder; without one, in the present one."""
        place = f"--wdns={folder or Path.cwd()}"
        return ["nsenter", "-t", str(self._holders[host].pid), "-n", "-u", "-m", place, "--", *command]

    def run(self, *command: str, host: str = "n1", env: Mapping[str, str] | None = None) -> str:
        """Run a command on a host to its end; what it printed.

        Raises:
            AssertionError: it failed.
        """
        env = {**os.environ, **self.environment, **(env or {})}
        line, quiet = self.on(host, command), subprocess.DEVNULL
        done = subprocess.run(line, stdin=quiet, capture_output=True, text=True, env=env, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    @contextlib.contextmanager
    def kernel(self, folder: Path) -> Iterator[Kernel]:
        """A kernel on host n1, which is the login node too."""
        kernel = KernelOfHost(self, folder, self.folder / f"k{next(self._kernels)}")
        try:
            yield kernel
        finally:
            kernel.stop()

    def submit(self, *options: str, command: str = "sleep 600") -> str:
        """Submit a job; its id."""
        output = f"--output={self.folder}/%j.out"
        return self.run("sbatch", "--parsable", output, *options, f"--wrap={command}")

    @contextlib.contextmanager
    def filled(self, partition: str = "main") -> Iterator[str]:
        """A job that holds all nodes, so that others wait; in partition urgent, it preempts those of main."""
        job = self.submit(f"--partition={partition}", "--nodes=2", "--exclusive", "--no-requeue", "--time=5")
        try:
            self.wait_for(job, "RUNNING")
            yield job
        finally:
            self.run("scancel", job)
            self.wait_for(job, "CANCELLED")

    def word(self, job: str) -> str:
        """Slurm's word for the state of a job."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")

    def wait_for(self, job: str, *words: str, timeout_s: float = 60) -> str:
        """Wait until a job is in one of these states."""
        self._wait(lambda: self.word(job) in words, f"job {job} to be {' or '.join(words)}", timeout_s)
        return self.word(job)

    def wait_until_idle(self, timeout_s: float = 60) -> None:
        """Wait until all nodes are free."""
        idle = ("sinfo", "--noheader", "--Node", "--states=idle", "--responding", "--format=%N")

        def ready() -> bool:
            with contextlib.suppress(AssertionError):  # the controller does not answer yet
                return set(self.run(*idle).split()) >= {"n1", "n2", "n3"}
            return False

        self._wait(ready, "the nodes to be idle", timeout_s)

    def processes(self, host: str, containing: str = "") -> list[int]:
        """Processes that run on a host, its daemons too, whose command line has a text in it."""
        holder = self._holders[host].pid
        network = os.readlink(f"/proc/{holder}/ns/net")
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if os.readlink(path / "ns/net") == network and containing in command:
                    found.append(int(path.name))
        return sorted(pid for pid in found if pid != holder)

    def kill(self, host: str, containing: str = "", number: int = signal.SIGKILL) -> list[int]:
        """Send a signal to the processes of a host whose command line has a text in it."""
        found = self.processes(host, containing)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return found

    @contextlib.contextmanager
    def lost(self, host: str = "n2") -> Iterator[None]:
        """A host without all its processes, as after a power cut, and the controller is told; it comes back at the end.

        Args:
            host: n2; n1 is the controller's.
        """
        self.kill(host)
        self._daemons.pop(f"slurmd-{host}").wait()
        self.run("scontrol", "update", f"nodename={host}", "state=down", "reason=lost")
        try:
            yield
        finally:
            self._start_node(host)
            with contextlib.suppress(AssertionError):  # it is back by itself, as ReturnToService says
                self.run("scontrol", "update", f"nodename={host}", "state=resume")
            self.wait_until_idle()

    @contextlib.contextmanager
    def hidden(self, folder: Path, host: str = "n2") -> Iterator[None]:
        """A folder that is empty on a host: what is not on a shared file system."""
        self.run("mount", "-t", "tmpfs", "none", str(folder), host=host)
        try:
            yield
        finally:
            self.run("umount", "--lazy", str(folder), host=host)

    def _start_hosts(self) -> None:
        hosts = self.folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in HOSTS.items()))
        for name in HOSTS:
            ready = f"hostname {name} && mount --bind {hosts} /etc/hosts && ip link set lo up && echo ready"
            hold = ["unshare", "-n", "-u", "-m", "--propagation", "private", "sh", "-c", f"{ready} && read _\n{SWEEP}"]
            hold += [str(self.folder)]
            pipe = subprocess.PIPE
            self._holders[name] = subprocess.Popen(hold, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for name, holder in self._holders.items():
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n", f"no host {name}"
        peer = str(self._holders["n2"].pid)
        self.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", peer)
        for name, address in HOSTS.items():
            self.run("ip", "addr", "add", f"{address}/24", "dev", "eth0", host=name)
            self.run("ip", "link", "set", "eth0", "up", host=name)

    def _write(self) -> None:
        gpus = [self.folder / f"gpu{number}" for number in range(2)]
        for gpu in gpus:
            os.mknod(gpu, 0o600 | 0o020000, os.makedev(1, 3))  # as /dev/null
        accounting = WITH_ACCOUNTING if self.accounting else WITHOUT_ACCOUNTING
        conf = (CONF + accounting).format(folder=self.folder, cpus=CPUS)
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "gres.conf").write_text(f"NodeName=n3 Name=gpu Type=a100 File={self.folder}/gpu[0-1]\n")
        for name in ("state", "spool-n1", "spool-n2", "spool-n3"):
            (self.folder / name).mkdir()
        self.commands.mkdir()
        env = [f"{name}={value}" for name, value in self.environment.items()]
        for name in COMMANDS:
            line = shlex.join([*self.on("n1", ["env", *env, f"/usr/bin/{name}"], Path("PWD"))]).replace(
                "=PWD", '="$PWD"'
            )
            (self.commands / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (self.commands / name).chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))

    def _munged(self) -> list[str]:
        places = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        paths = [f"--{option}={self.folder}/munge.{ending}" for option, ending in places.items()]
        return ["munged", "--foreground", "--force", *paths]

    def _start_node(self, node: str) -> None:
        self._daemon(f"slurmd-{node}", "n1" if node == "n3" else node, "slurmd", "-D", "-b", "-N", node)

    def _start_accounting(self) -> None:
        data, sock = self.folder / "db", self.folder / "db.sock"
        data.mkdir()
        shutil.chown(data, "mysql")
        self.folder.chmod(0o777)
        as_mysql = ["--no-defaults", "--user=mysql", f"--datadir={data}"]
        self.run("mariadb-install-db", *as_mysql, "--auth-root-authentication-method=normal", "--skip-test-db")
        listens = [f"--socket={sock}", f"--pid-file={data}/pid", "--bind-address=127.0.0.1", "--port=13306"]
        self._daemon("mariadbd", "n1", "mariadbd", *as_mysql, *listens, "--innodb-buffer-pool-size=32M")
        self._wait(functools.partial(self._works, "mariadb", "--no-defaults", "-S", str(sock), "-e", GRANTS), "MariaDB")
        conf = self.folder / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text(SLURMDBD.format(folder=self.folder))
        self._daemon("slurmdbd", "n1", "slurmdbd", "-D")
        self._wait(functools.partial(self._works, "sacctmgr", "-i", "add", "cluster", "test"), "slurmdbd")

    def _works(self, *command: str) -> bool:
        with contextlib.suppress(AssertionError):
            self.run(*command)
            return True
        return False

    def _daemon(self, name: str, host: str | None, *command: str) -> None:
        """Start a daemon that stays this process's child, and is killed with it."""
        line = ["setpriv", "--pdeathsig=KILL", "--", *(self.on(host, command) if host else command)]
        env = {**os.environ, **self.environment}
        with (self.folder / f"{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )

    def _wait(self, done: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                logs = {path.name: path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out")}
                pytest.fail(f"waited for {what}; daemons that ended: {ended}; logs: {logs}")
            time.sleep(0.1)


class KernelOfHost(Kernel):
    """A kernel that runs on a host of a cluster, and is spoken to through sockets of the file system."""

    def __init__(self, cluster: Cluster, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.manager: Any = KernelManager(transport="ipc", ip=str(sockets), kernel_name="python3")
        spec = self.manager.kernel_spec
        spec.argv = cluster.on("n1", [sys.executable, *spec.argv[1:]], folder)
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, **cluster.environment})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
