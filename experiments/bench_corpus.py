"""How fast a large compressed corpus becomes tokens, and in how much memory, beside what one core needs for its parts.

    python experiments/bench_corpus.py
    python experiments/bench_corpus.py --gigabytes 0.3

Writes two corpora in shards, one ten times as large as the other, of lines of the standard library's sources and
documentation drawn at random. Timed are decompression alone and the `tokenizers` library alone, on one core, and the
pass with which experiments/pretrain.py fills its cache, whose memory is sampled. A pass over the smaller corpus is
ended by SIGKILL and begun again: the tokens must be the same.
Expected: experiments/README.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxllm.data import files, tokenizers
from jaxllm.data.builtin import stdlib
from jaxllm.data.text.documents import open_documents
from jaxllm.data.text.token_cache import plain_encoder
from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError

PASS = """
import sys
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from jaxllm.data.text import token_cache
from jaxllm.data.text.documents import open_documents
token_cache.SAVE_EVERY = float(sys.argv[4])
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[2])
documents = open_documents(sys.argv[1])["train"]
print(token_cache.open_corpus(documents, tokenizer, len(tokenizer), root=Path(sys.argv[3])).describe())
"""
"""What experiments/pretrain.py does with a corpus before it trains."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the caching pass over a large and a small corpus."""

    gigabytes: float = 2.0
    """Size of the large corpus, uncompressed, in 10^9 bytes of text; the small one has a tenth."""
    shards: int = 8
    """Number of files of each."""
    suffix: str = "gz"
    """How they are compressed: gz or zst."""
    sample: int = 5000
    """Documents that are tokenised on one core."""
    vocab_size: int = 8192
    """Vocabulary of the byte-level BPE tokenizer, in tokens."""
    save_every: float = 30.0
    """Seconds between two notes of how far a pass has come; a tenth of that for the one that is interrupted."""


def write(folder: Path, size: float, config: Config) -> Path:
    """A folder of shards with `size` bytes of JSON lines, whose documents have 20 to 200 lines."""
    import pyarrow as pa

    lines = [line for text in stdlib.documents()["train"].values() for line in text.splitlines(keepends=True)]
    draw = random.Random(0)
    folder.mkdir()
    for shard in range(config.shards):
        written, path = 0, folder / f"train-{shard:05}-of-{config.shards:05}.jsonl.{config.suffix}"
        with pa.output_stream(str(path), compression="detect") as file:
            while written < size / config.shards:
                text = "".join(draw.choices(lines, k=draw.randint(20, 200)))
                file.write(row := json.dumps({"text": text}).encode() + b"\n")
                written += len(row)
    return folder


def seconds(work: Callable[[], object]) -> np.ndarray:
    """How long a function takes, and for how long it computes: beside other work the second tells more."""
    began = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - began


def decompress(folder: Path) -> None:
    """Reads all shards, block by block, and does nothing with them."""
    for path in sorted(folder.iterdir()):
        with files.open_bytes(path) as file:
            while file.read(1 << 20):
                pass


def cache(corpus: Path, root: Path, every: float, kill_at: float = np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Runs the pass in a process of its own: its `seconds`, and its memory in MB, ten times a second.

    kill_at: it is ended by SIGKILL when so many bytes of tokens are written. Raises InputError if it fails.
    """
    began, held, ended = time.perf_counter(), [], 0
    child = subprocess.Popen([sys.executable, "-c", PASS, corpus, root.parent / "bpe", root, str(every)])
    while not ended:
        held.append(int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]))
        if sum(path.stat().st_size for path in root.glob("tokens/partial-*/tokens.bin")) > kill_at:
            child.kill()
        time.sleep(0.1)
        ended, status, used = os.wait4(child.pid, os.WNOHANG)
    if status and kill_at == np.inf:
        raise InputError(f"the pass over {corpus} failed with status {status}")
    took = np.array([time.perf_counter() - began, used.ru_utime + used.ru_stime])
    return took, np.array(held) * os.sysconf("SC_PAGE_SIZE") / 1e6


def tokens(root: Path) -> np.ndarray:
    """The tokens in a cache of one corpus."""
    return np.memmap(next(root.glob("tokens/*/tokens.bin")), np.uint16, mode="r")


def main(config: Config) -> None:
    """Writes the corpora, times, and prints."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizers.bpe(stdlib.documents()["train"].values(), config.vocab_size)
    with tempfile.TemporaryDirectory() as temporary:
        root, MB = Path(temporary), config.gigabytes * 1e3
        tokenizer.save_pretrained(root / "bpe")
        small, large = write(root / "small", MB * 1e5, config), write(root / "large", MB * 1e6, config)
        texts = list(itertools.islice(open_documents(str(small))["train"].texts(), config.sample))
        encoder = plain_encoder(tokenizer)
        tokenise = seconds(lambda: encoder.encode_batch_fast(texts)) / sum(len(text.encode()) for text in texts) * 1e6
        unpack = seconds(lambda: decompress(large)) / MB
        print("MB/s of wall time and of one core's time")
        print(f"decompression alone {show(1 / unpack)}, tokenisation alone {show(1 / tokenise)}", flush=True)
        del os.environ["TOKENIZERS_PARALLELISM"]  # the passes use all cores
        for corpus, size in ((small, MB / 10), (large, MB)):
            took, held_MB = cache(corpus, root / f"{corpus.name}-cache", config.save_every)
            quarters = ", ".join(f"{part.max():.0f}" for part in np.array_split(held_MB, 4))
            print(f"{corpus.name}: {size:.0f} MB in {took[0]:.0f} s, {show(size / took)}: "
                  f"{show((unpack + tokenise) * size / took)} of both alone on one core")  # fmt: skip
            print(f"  memory {held_MB.max():.0f} MB at most, by quarters of the time {quarters}", flush=True)
        whole = tokens(root / "small-cache")
        (killed, _), _ = cache(small, root / "again", config.save_every / 10, kill_at=whole.nbytes / 2)
        (rest, _), _ = cache(small, root / "again", config.save_every)
        same = "the same" if np.array_equal(whole, tokens(root / "again")) else "NOT the same"
        print(f"small: killed after {killed:.0f} s, the rest in {rest:.0f} s, its tokens are {same}")


def show(pair: np.ndarray) -> str:
    """Two numbers as text."""
    return f"{pair[0]:.2f} and {pair[1]:.2f}"


if __name__ == "__main__":
    run_script(main, Config)
