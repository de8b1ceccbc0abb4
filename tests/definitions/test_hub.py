import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError

from lightning_magics.definitions import hub
from lightning_magics.errors import InputError


def test_a_folder_with_the_files_is_enough(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("")
    hub.check(str(tmp_path), "model")
    with pytest.raises(
        InputError, match=r"the folder .* does not contain a tokenizer: it has none of tokenizer.json, tokenizer_con"
    ):
        hub.check(str(tmp_path), "tokenizer")


def test_a_folder_that_is_not_there_is_said(tmp_path):
    (tmp_path / "minilm").mkdir()
    with pytest.raises(InputError, match=r"there is no folder .*/miniln with a model. Did you mean 'minilm'\?"):
        hub.check(str(tmp_path / "miniln"), "model")


def test_a_hub_name_offline_is_said_at_once(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = (
        r"the tokenizer 'no/such-thing' is neither a local folder nor in the cache, and HF_HUB_OFFLINE prevents "
        r"downloading it. Pass the folder of a tokenizer, or unset it and restart the kernel"
    )
    with pytest.raises(InputError, match=message):
        hub.check("no/such-thing", "tokenizer")


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    asked = []

    def unreachable(self, name, **options):
        asked.append((name, options["timeout"]))
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", unreachable)
    message = (
        r"the model 'bert-base-uncased-0' is neither .* the Hugging Face hub cannot be reached "
        r"\(Name or service not known\). Pass"
    )
    with pytest.raises(InputError, match=message):
        hub.check("bert-base-uncased-0", "model")
    assert asked == [("bert-base-uncased-0", 5.0)]


def test_a_name_that_the_hub_does_not_know_is_said(monkeypatch):
    def unknown(self, name, **options):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", unknown)
    with pytest.raises(
        InputError,
        match=r"and the Hugging Face hub has no model with that name, or it is private. Pass the folder of a mo",
    ):
        hub.check("bert-bass", "model")


def test_what_is_in_the_cache_needs_no_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--some--bert" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_text("")
    (tmp_path / "models--some--bert" / "refs").mkdir()
    (tmp_path / "models--some--bert" / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.check("some/bert", "model")
    (snapshot / "model.safetensors").unlink()  # as after one who loaded the tokenizer alone
    hub.check("some/bert", "configuration")
    with pytest.raises(InputError, match=r"the model 'some/bert' is neither a local folder nor in the cache"):
        hub.check("some/bert", "model")
