"""The Hugging Face hub: whether it can be reached, asked once and quickly, and the data sets on it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxllm.types import InputError

TIMEOUT_S = 4.0
"""Seconds to wait for the hub's first answer, unless HF_HUB_ETAG_TIMEOUT says how many."""

# Known by a short name, and scripts on the hub: only their parquet conversion can be loaded.
_SCRIPTS = {"conll2003": "eriktks/conll2003", "eriktks/conll2003": "eriktks/conll2003"}
_CONVERTED = "refs/convert/parquet"


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Silences the hub client's line for each new attempt: where all attempts fail, the exception says why."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def why_unreachable(repo: str, revision: str | None = None, kind: str = "model") -> str:
    """Why the hub cannot be asked about a repository ("model" or "dataset"); "" where it answers, be it an error.

    Asked once, in a thread that can be left behind, for looking up a name may take longer than any timeout; and not at
    all where HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    limit = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or TIMEOUT_S)
    found: list[str] = []

    def ask() -> None:
        try:
            HfApi().repo_info(repo, revision=revision, repo_type=kind, timeout=limit)
            found.append("")
        except Exception as error:  # of the hub, which the download will meet again and say, or of its HTTP client
            client = type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests")
            found.append(f"no connection ({' '.join(str(error).split()) or type(error).__name__})" if client else "")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(limit)
    return found[0] if found else f"no answer in {limit:g} s (HF_HUB_ETAG_TIMEOUT)"


def download_dataset(dataset: str) -> Mapping[str, Any]:
    """The splits of a data set on the hub, `org/name` or `org/name:config`, or of the cache where it does not answer.

    Raises InputError, which says where it was looked for.
    """
    name, _, config = dataset.partition(":")
    options = {"name": config} if config else {}
    known = _SCRIPTS.get(name, name)
    with quiet_hub():
        unreachable = why_unreachable(known, kind="dataset")
        import datasets  # 2 s, and local text files do without

        try:
            with _offline() if unreachable else contextlib.nullcontext():
                if name in _SCRIPTS:
                    return datasets.load_dataset(known, revision=_CONVERTED, **options)
                try:
                    return datasets.load_dataset(name, **options)
                except RuntimeError as error:
                    if "scripts are no longer supported" not in str(error):
                        raise
                    return datasets.load_dataset(name, revision=_CONVERTED, **options)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = unreachable or (str(error).strip() or type(error).__name__).splitlines()[0]
            looked = f"looked in {Path(name).absolute()} and {datasets.config.HF_DATASETS_CACHE}"
            raise InputError(
                f"{dataset}: no such file or folder, and the hub did not give it: {reason} ({looked}); check name and "
                "network"
            ) from error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keeps both libraries from asking a hub that does not answer again and again: they take what is cached."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
