"""Tokenizers trained on the spot: byte-level BPE, and one token per character.

Both know one special token, `<|endoftext|>`, which begins and ends a text, and both give any text back as it was.
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
"""What the character tokenizer makes of characters that it was not trained on."""

SAMPLE = 2**26
"""Characters to train on; what comes after them is not read."""


def cache_root() -> Path:
    """Where tokenizers and tokens are kept between runs: $XDG_CACHE_HOME or ~/.cache, below `jaxllm`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxllm"


def bpe(texts: Iterable[str], vocab_size: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Radford et al. 2019, section 2.2) of at most `vocab_size` entries.

    Every byte is an entry, so no text is unknown. Two trainings on the same texts give the same vocabulary. Raises
    InputError for a vocabulary that cannot hold the bytes.
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
    """A tokenizer of the characters in `texts`, in the order of their code points, after the two special tokens."""
    from tokenizers import Tokenizer, decoders, models

    alphabet = sorted({character for text in _sample(texts) for character in text})
    vocabulary = {token: i for i, token in enumerate([END, UNKNOWN, *alphabet])}
    pieces = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=False))
    pieces.decoder = decoders.Fuse()
    return _finish(pieces, unk_token=UNKNOWN)


KINDS: dict[str, Callable[..., PreTrainedTokenizerFast]] = {"bpe": bpe, "char": characters}
"""Tokenizers to train, by name."""


def trained(kind: str, texts: Iterable[str], key: str, root: Path | None = None, **options: Any) -> Any:
    """The tokenizer of this kind, trained on `texts` unless an earlier call kept one under the same `key`.

    key: what stands for the texts. root: where it is kept, by default below `cache_root()`.
    """
    from transformers import PreTrainedTokenizerFast

    digest = hashlib.sha256(json.dumps([kind, key, SAMPLE, options], sort_keys=True).encode()).hexdigest()[:20]
    folder = (cache_root() if root is None else root) / "tokenizers" / digest
    with alone(folder):
        if not (folder / "tokenizer.json").is_file():
            tokenizer = KINDS[kind](texts, **options)
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
            tokenizer.save_pretrained(partial)
            keep(partial, folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def stored(tokenizer: Any, root: Path | None = None) -> Any:
    """The same tokenizer from a folder of its own, named by its contents, so that others can find what was changed."""
    from transformers import AutoTokenizer

    parent = (cache_root() if root is None else root) / "tokenizers"
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=parent, prefix="partial-"))
    tokenizer.save_pretrained(partial)
    digest = hashlib.sha256()
    for path in sorted(partial.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    folder = parent / digest.hexdigest()[:20]
    keep(partial, folder)
    return AutoTokenizer.from_pretrained(folder)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within, no other process of this host is: of those that would make a folder one does, the others find it."""
    locks = folder.parent.with_name("locks")
    for parent in (folder.parent, locks):
        parent.mkdir(parents=True, exist_ok=True)
    with (locks / folder.name).open("w") as file:
        with contextlib.suppress(OSError):  # a file system that has no such locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keep(partial: Path, folder: Path) -> None:
    """Gives a finished folder its name, at once; where another process was first, its folder stays."""
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
    # What a prompt begins with is what documents begin with.
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
