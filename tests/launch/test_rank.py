"""What a rank is told of the kernel."""

import sys

from lightning_magics.launch.rank import variables


def test_a_rank_gets_the_kernels_path_in_its_order(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/from/a/module")
    found = variables(["/one", *sys.path, "/two"])
    assert found["LIGHTNING_MAGICS_PATH"].split(":") == ["/one", *sys.path, "/two"]
    assert found.get("PYTHONPATH", "/from/a/module").endswith("/from/a/module")
