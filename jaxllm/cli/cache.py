"""`python -m jaxllm cache`: where files are kept between runs, how large they are, and a way to delete them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
from huggingface_hub import constants
from rich.filesize import decimal

from jaxllm.data.tokenizers import cache_root
from jaxllm.types import InputError, check_one_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Lists the caches: compiled programs, tokens, downloaded data, reference log-probabilities, embedded corpora,
    tokenizers, and those of Hugging Face.

    They are in $XDG_CACHE_HOME/jaxllm, by default ~/.cache/jaxllm; those of Hugging Face, which other programs share,
    in $HF_HOME.
    """

    clear: str = ""
    """Name of a cache to empty; by default none is. What is missing later is computed or downloaded again."""


def caches() -> Mapping[str, tuple[Path, str]]:
    """The folder of each cache and what it holds, by name."""
    root, hf = cache_root(), Path(constants.HF_HOME)
    compiled = jax.config.jax_compilation_cache_dir or root / "compiled"  # type: ignore[attr-defined]
    return {
        "compiled": (Path(compiled), "programs that XLA has compiled"),
        "tokens": (root / "tokens", "text as tokens, for pretraining"),
        "downloads": (root / "downloads", "data files from other machines"),
        "references": (root / "references", "log-probabilities under the reference of a preference loss"),
        "corpora": (root / "corpora", "embedded corpora, which are generated"),
        "tokenizers": (root / "tokenizers", "tokenizers that were trained, or given a chat template"),
        "hub": (Path(constants.HF_HUB_CACHE), "models and files from the Hugging Face hub"),
        "datasets": (Path(os.environ.get("HF_DATASETS_CACHE", hf / "datasets")), "data sets from the hub, as tables"),
    }


def main(config: Config) -> None:
    """Prints each cache with its size, or empties one. Raises InputError for a name that there is not."""
    known = caches()
    if config.clear:
        check_one_of("--clear", config.clear, known)
        folder, _ = known[config.clear]
        freed = size(folder)
        empty(folder)
        print(f"{config.clear}: {decimal(freed)} deleted from {folder}")
        return
    for name, (folder, meaning) in known.items():
        print(f"{name:<11} {decimal(size(folder)):>9}  {meaning}\n{'':<22} {folder}")


def size(folder: Path) -> int:
    """Bytes of all files below a folder, 0 where there is none; links, of which the hub's cache has many, count 0."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


def empty(folder: Path) -> None:
    """Deletes what is in a folder, which stays. Raises InputError for what cannot be deleted."""
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be deleted ({error.strerror})") from None
