"""Pretrained names: whether a folder or a name of the Hugging Face hub can be had, before a library waits for it.

Loading is transformers' own, in the user's and the generated code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ..errors import InputError, did_you_mean

Role = Literal["tokenizer", "model", "configuration", "dataset"]

# Of each, any is enough.
_FILES: dict[Role, tuple[str, ...]] = {
    "tokenizer": ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model"),
    "model": ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.gguf"),
    "configuration": ("config.json",),
    "dataset": ("README.md",),
}
_CACHED = ("config.json", "tokenizer_config.json", "README.md")  # where something is in the cache, one of these is
_TIMEOUT_S = 5.0


def check(name: str, role: Role) -> None:
    """Check that something pretrained can be had: as a folder, from the cache, or from the hub.

    Args:
        name: a folder, or a name such as ``bert-base-uncased``.
        role: what is to be loaded.

    Raises:
        InputError: it cannot; says why.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not _has(folder, role):
            raise InputError(f"the folder {name} does not contain a {role}: it has none of {', '.join(_FILES[role])}")
        return
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        near = did_you_mean(folder.name, [item.name for item in folder.parent.glob("*")])
        raise InputError(f"there is no folder {name} with a {role}.{near}")
    if not _is_cached(name, role):
        _check_hub(name, role)


def _has(folder: Path, role: Role) -> bool:
    return any(True for pattern in _FILES[role] for _ in folder.glob(pattern))


def _is_cached(name: str, role: Role) -> bool:
    """Whether it is in the cache, and not only what goes with it, such as the configuration of a model."""
    from huggingface_hub import try_to_load_from_cache

    kind = "dataset" if role == "dataset" else "model"
    paths = [try_to_load_from_cache(name, file, repo_type=kind) for file in _CACHED]
    return any(_has(Path(path).parent, role) for path in paths if isinstance(path, str))


def _check_hub(name: str, role: Role) -> None:
    """Ask the hub for a name, once and not for long: a library would try again and again, for minutes."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    problem = f"the {role} {name!r} is neither a local folder nor in the cache, and"
    local = f"Pass the folder of a {role}"
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{problem} HF_HUB_OFFLINE prevents downloading it. {local}, or unset it and restart the kernel"
        )
    try:
        HfApi().repo_info(name, repo_type="dataset" if role == "dataset" else "model", timeout=_TIMEOUT_S)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{problem} the Hugging Face hub has no {role} with that name, or it is private. {local}, or log in"
        ) from error
    except HfHubHTTPError:
        return  # the hub answers: what it refuses, the library says
    except Exception as error:  # whatever the transport raises
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{problem} the Hugging Face hub cannot be reached ({reason}). {local}, or check the network connection"
        ) from error
