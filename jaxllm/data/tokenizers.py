"""Training tokenizers on a data set: byte-level BPE, or one token per character.

Both have the special token `<|endoftext|>`, which begins and ends a text, and both decode to exactly the encoded text.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
"""The character tokenizer's token for characters that are not in its training data."""

SAMPLE = 2**26
"""The number of characters to train on; later text is not read."""


def cache_root() -> Path:
    """The folder of cached tokenizers, tokens and log-probabilities: $XDG_CACHE_HOME/jaxllm or ~/.cache/jaxllm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"


def bpe(texts: Iterable[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer (Radford et al. 2019, section 2.2) of at most `vocab_size` entries.

    Every byte is an entry, so no text is unknown. Training twice on the same texts gives the same vocabulary. Raises
    InputError for a vocabulary that is too small for all bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise InputError(f"--vocab-size {vocab_size}: at least 257 are needed, for every byte and {END}")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(_sample(texts), trainer)
    return _finish(pieces)


def characters(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the characters in `texts`, numbered by code point after the two special tokens."""
    from tokenizers import Tokenizer, decoders, models

    alphabet = sorted({character for text in _sample(texts) for character in text})
    vocabulary = {token: i for i, token in enumerate([END, UNKNOWN, *alphabet])}
    pieces = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=False))
    pieces.decoder = decoders.Fuse()
    return _finish(pieces, unk_token=UNKNOWN)


KINDS: dict[str, Callable[..., PreTrainedTokenizerFast]] = {"bpe": bpe, "char": characters}
"""The tokenizers that can be trained, by name."""


def train_or_load(kind: str, texts: Iterable[str], key: str, root: Path | None = None, **options: Any) -> Any:
    """A tokenizer of this kind, read from the cache, or trained on `texts` and written to it.

    key: a string that changes when the texts change. root: the folder of the cache, by default `cache_root()`.
    """
    from transformers import PreTrainedTokenizerFast

    digest = hashlib.sha256(json.dumps([kind, key, SAMPLE, options], sort_keys=True).encode()).hexdigest()[:20]
    folder = (cache_root() if root is None else root) / "tokenizers" / digest
    with lock_folder(folder):
        if not (folder / "tokenizer.json").is_file():
            tokenizer = KINDS[kind](texts, **options)
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
            tokenizer.save_pretrained(partial)
            publish(partial, folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def save_and_reload(tokenizer: Any, root: Path | None = None) -> Any:
    """Saves a tokenizer to a folder of the cache named by a hash of its files, and loads it from there."""
    from transformers import AutoTokenizer

    parent = (cache_root() if root is None else root) / "tokenizers"
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=parent, prefix="partial-"))
    tokenizer.save_pretrained(partial)
    digest = hashlib.sha256()
    for path in sorted(partial.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    folder = parent / digest.hexdigest()[:20]
    publish(partial, folder)
    return AutoTokenizer.from_pretrained(folder)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Holds a lock of this host, so that only one process makes a folder and the others then find it.

    Yields whether it is held: some file systems have no such locks.
    """
    locks = folder.parent.with_name("locks")
    for parent in (folder.parent, locks):
        parent.mkdir(parents=True, exist_ok=True)
    with (locks / folder.name).open("w") as file:
        locked = False
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        yield locked


def publish(partial: Path, folder: Path) -> None:
    """Renames a complete folder; if another process was first, its folder is kept."""
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)
        if not folder.is_dir():
            raise


def _finish(pieces: Any, **special: str) -> PreTrainedTokenizerFast:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    pieces.add_special_tokens([END, *special.values()])
    # Prompts begin with the same token as documents.
    pieces.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, pieces.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False, **special
    )


def _sample(texts: Iterable[str]) -> Iterator[str]:
    left = SAMPLE
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return
