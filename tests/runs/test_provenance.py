from __future__ import annotations

import subprocess
from collections import Counter, OrderedDict, defaultdict

import torch

from lightning_magics.definitions import definition
from lightning_magics.runs import provenance


def test_versions_name_what_is_in_use():
    found = provenance.versions("lightning.pytorch")
    assert {"python", "lightning-magics", "torch", "lightning"} <= found.keys()
    assert "pytorch-lightning" in provenance.versions("pytorch_lightning")


def test_git_names_the_commit_and_whether_files_differ_if_it_can_be_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert provenance.git() == {}
    commands = [["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]]
    (tmp_path / "file").write_text("one")
    for command in [*commands, ["add", "file"], ["commit", "-qm", "one"]]:
        subprocess.run(["git", *command], check=True)
    found = provenance.git()
    assert len(found["commit"]) == 40
    assert found["dirty"] is False
    (tmp_path / "file").write_text("two")
    assert provenance.git()["dirty"] is True
    (tmp_path / ".git/index").write_text("broken")
    assert provenance.git() == {"commit": found["commit"], "dirty": None}


def test_values_that_json_cannot_hold_are_shown():
    found = provenance.json_values({"n": 1, "device": torch.device("cpu"), "names": {"a"}})
    assert found["n"] == 1
    assert found["device"] == "device(type='cpu')"
    assert found["names"] == "{'a'}"


def test_source_of_a_class_of_a_module_is_found():
    assert definition.class_source(torch.nn.Identity).startswith("class Identity")
    assert definition.class_source(type("Made", (), {})) == ""


def test_every_kind_of_dict_is_recorded_as_a_plain_one():
    kinds = {"counter": Counter("aab"), "default": defaultdict(list, a=[1]), "inner": {"x": [OrderedDict(b={2})]}}
    found = provenance.json_values(kinds)
    assert found == {"counter": {"a": 2, "b": 1}, "default": {"a": [1]}, "inner": {"x": [{"b": "{2}"}]}}
    assert {type(value) for value in found.values()} == {dict}
