import importlib
import inspect

import pytest
import pytorch_lightning
import torch
from lightning_fabric.accelerators.cuda import CUDAAccelerator

from lightning_magics.definitions.definition import PACKAGES
from lightning_magics.errors import InputError
from lightning_magics.launch.placement import needs_processes, processes, with_ddp, with_resolved_devices

PL = "pytorch_lightning"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """A machine with the CPU alone, whatever this one has."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


@pytest.fixture
def four_gpus(no_gpu, monkeypatch):
    """A machine with GPUs 0 to 3."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert CUDAAccelerator.auto_device_count() == 4


def strategies(package=PL):
    return importlib.import_module(package).strategies


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("asked", "count"), [({}, 1), *(({"devices": item}, 1) for item in (1, "1", "auto", -1, "-1")),
                         ({"devices": 3}, 3), ({"devices": "3"}, 3), ({"devices": 2, "accelerator": "cpu"}, 2)]
)  # fmt: skip
def test_the_cpu_takes_the_processes_that_were_asked_for_and_one_otherwise(asked, count, package):
    assert processes(asked, package) == count
    assert with_resolved_devices(asked, package)["devices"] == count


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("devices", "indices"),
    [(1, [0]), ("2", [0, 1]), ("auto", [0, 1, 2, 3]), (-1, [0, 1, 2, 3]), ("-1", [0, 1, 2, 3]), ("0,2", [0, 2]),
     ([1, 3], [1, 3]), ("2,", [2])],
)  # fmt: skip
def test_gpus_are_counted_as_lightning_counts_them(devices, indices, package, four_gpus):
    for accelerator in ("auto", "gpu", "cuda", importlib.import_module(package).accelerators.CUDAAccelerator()):
        asked = {"devices": devices, "accelerator": accelerator}
        assert processes(asked, package) == len(indices)
        assert with_resolved_devices(asked, package) == {**asked, "devices": indices}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("devices", [2, "2", "auto"])
def test_trainer_agrees_on_the_cpu(devices, package):
    trainer = importlib.import_module(package).Trainer
    asked = {"devices": devices, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    assert trainer(**asked).num_devices == processes(asked, package)
    assert trainer(**with_resolved_devices(asked, package)).num_devices == processes(asked, package)


def test_one_of_many_gpus_is_taken_unless_more_were_asked_for(four_gpus):
    assert processes({}, PL) == 1
    assert with_resolved_devices({}, PL) == {"devices": [0]}


@pytest.mark.parametrize("devices", [0, "0", -2, "x", "0,1", [0, 1], [], "", 2.0])
def test_what_the_cpu_cannot_take_is_refused(devices):
    with pytest.raises(
        InputError, match=r"^--devices .* is not a number of processes, .*CPU needs\. Type --devices 2$"
    ):
        processes({"devices": devices}, PL)


@pytest.mark.parametrize("devices", [0, "0", 9, "x", "1,1", [0, 7], [], [True]])
def test_gpus_that_are_not_there_are_refused(devices, four_gpus):
    expected = (
        r"^--devices .* is not available: this machine has 4 GPUs \(indices 0 to 3\)\. Type --devices auto .* CPU$"
    )
    with pytest.raises(InputError, match=expected):
        processes({"devices": devices}, PL)


def test_a_machine_of_one_gpu_is_described_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match=r"--devices 9 is not available: this machine has 1 GPU \(index 0\)\."):
        processes({"devices": 9}, PL)


@pytest.mark.parametrize(
    ("accelerator", "message"),
    [
        ("tpuu", r"--accelerator tpuu is not one of: auto, gpu, cpu, cuda, mps, tpu\. Did you mean 'tpu'\?"),
        ("cuda", r"--accelerator cuda is not available: this machine has cpu\. Type --accelerator auto"),
        ("gpu", r"--accelerator gpu is not available: this machine has cpu"),
        (pytorch_lightning.accelerators.CUDAAccelerator(), r"--accelerator CUDAAccelerator is not available"),
    ],
)
def test_accelerators_that_are_not_there_are_refused(accelerator, message):
    with pytest.raises(InputError, match=f"^{message}"):
        processes({"accelerator": accelerator}, PL)


def test_several_machines_are_refused():
    with pytest.raises(
        InputError,
        match=r"--num_nodes 2 is not available: a run here .*\. To use a cluster, type --nodes 2",
    ):
        processes({"num_nodes": 2}, PL)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, False),
        ({"devices": "auto"}, False),
        ({"devices": 2}, True),
        ({"strategy": "auto"}, False),
        ({"strategy": "single_device"}, False),
        ({"strategy": "ddp"}, True),
        ({"strategy": "fsdp"}, True),
        ({"strategy": "ddp_find_unused_parameters_true"}, True),
    ],
)
def test_several_devices_or_a_strategy_for_them_need_processes(asked, expected, package):
    assert needs_processes(asked, package) is expected


@pytest.mark.parametrize("package", PACKAGES)
def test_strategy_objects_are_read_as_their_names_are(package):
    found = strategies(package)
    assert needs_processes({"strategy": found.DDPStrategy()}, package)
    assert not needs_processes({"strategy": found.SingleDeviceStrategy(device="cpu")}, package)
    brings = {"strategy": found.DDPStrategy(parallel_devices=[torch.device("cpu")] * 3)}
    assert processes(brings, package) == 3
    assert with_resolved_devices(brings, package) == brings
    accelerator = importlib.import_module(package).accelerators.CPUAccelerator()
    assert processes({"strategy": found.DDPStrategy(accelerator=accelerator), "devices": 2}, package) == 2


def test_every_strategy_that_starts_processes_itself_is_refused():
    names = [name for name in strategies().StrategyRegistry.available_strategies() if "spawn" in name or "fork" in name]
    assert len(names) >= 6
    for name in [*names, "ddp_notebook"]:
        with pytest.raises(InputError, match=rf"^--strategy {name} starts .* Type --strategy ddp: its processes are"):
            processes({"strategy": name}, PL)
    for method in ("spawn", "fork"):
        with pytest.raises(InputError, match=r"^--strategy DDPStrategy starts its own processes"):
            needs_processes({"strategy": strategies().DDPStrategy(start_method=method)}, PL)


def test_lightning_still_names_the_start_method_as_it_did():
    assert "start_method" in inspect.signature(strategies().DDPStrategy).parameters
    assert strategies().DDPStrategy()._start_method == "popen"


def test_a_strategy_that_lightning_does_not_know_is_refused():
    with pytest.raises(InputError, match=r"--strategy dpp is not a Lightning strategy\. Did you mean 'ddp'\?"):
        processes({"strategy": "dpp"}, PL)
    with pytest.raises(InputError, match=r"--strategy wxyz is not a Lightning strategy\. Available: auto, ddp, "):
        processes({"strategy": "wxyz"}, PL)


def test_a_strategy_of_one_device_goes_with_one():
    with pytest.raises(
        InputError, match=r"--strategy single_device trains on one device, but --devices requests 2\. Remove"
    ):
        processes({"strategy": "single_device", "devices": 2}, PL)


def test_ddp_sets_strategy_and_devices():
    assert with_ddp({"max_epochs": 3}, 2) == {"max_epochs": 3, "strategy": "ddp", "devices": 2}
    assert with_ddp({"strategy": "auto"}, 1) == {"strategy": "ddp", "devices": 1}
    assert with_ddp({"devices": 3}, True) == {"strategy": "ddp", "devices": 3}


@pytest.mark.parametrize("package", PACKAGES)
def test_ddp_leaves_a_strategy_for_several_processes(package):
    for strategy in ("fsdp", "deepspeed", "ddp_find_unused_parameters_true", strategies(package).DDPStrategy()):
        assert with_ddp({"strategy": strategy}, 2, package) == {"strategy": strategy, "devices": 2}


def test_a_bare_ddp_takes_all_gpus(four_gpus):
    assert with_ddp({}, True) == {"strategy": "ddp", "devices": 4}
    with pytest.raises(InputError, match="Type a number of processes: --ddp 2"):
        with_ddp({"accelerator": "cpu"}, True)


def test_a_bare_ddp_without_gpus_asks_for_a_number():
    with pytest.raises(InputError, match=r"^--ddp uses all GPUs, but this machine has none\. Type .*: --ddp 2$"):
        with_ddp({}, True)


@pytest.mark.parametrize("devices", [2, "2", "0,2", [1, 3]])
def test_ddp_and_devices_may_agree(devices, four_gpus):
    assert with_ddp({"devices": devices}, 2) == {"strategy": "ddp", "devices": devices}


def test_ddp_and_other_arguments_may_not_differ():
    with pytest.raises(InputError, match=r"^--ddp 2 and --devices 4 differ\. Remove one of them$"):
        with_ddp({"devices": 4}, 2)
    with pytest.raises(InputError, match=r"^--ddp trains in several processes, but --strategy single_device in one"):
        with_ddp({"strategy": "single_device"}, 2)


@pytest.mark.parametrize("asked", [0, -3])
def test_ddp_needs_a_number_of_processes(asked):
    with pytest.raises(InputError, match=rf"^--ddp needs a positive number of processes, got {asked}\. Type --ddp 2$"):
        with_ddp({}, asked)


def test_arguments_are_not_changed_in_place():
    given = {"devices": "auto"}
    with_resolved_devices(given, PL)
    with_ddp(given, True)
    assert given == {"devices": "auto"}
