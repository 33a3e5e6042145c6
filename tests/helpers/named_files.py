"""The small files and runs that stand for those which commands of the documents name, and for names in capitals."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet


def rows(kind: str, count: int) -> str:
    """JSON lines of small rows."""
    made = {
        "text": lambda i: {"text": f"A book of {i} pages, read on day {i}. " * 4},
        "asked": lambda i: {"instruction": f"Is it {i}?", "input": "", "output": f"Yes, it is {i}."},
        "pair": lambda i: {"prompt": f"Is it {i}?", "chosen": f" Yes, {i}.", "rejected": f" No, {i + 1}."},
        "compared": lambda i: {"instruction": f"Is it {i}?", "input": "", "chosen": f"Yes, {i}.", "rejected": "No."},
    }[kind]
    return "".join(json.dumps(made(i)) + "\n" for i in range(count))


def as_list(lines: str) -> str:
    return json.dumps([json.loads(line) for line in lines.splitlines()])


SENTENCES = "Ada\tB-person\nLovelace\tI-person\nwrites\tO\n\nin\tO\nParis\tB-location\n\n" * 20
COLUMNS = "-DOCSTART- -X- -X- O\n\nAda NNP I-NP I-PER\nLovelace NNP I-NP I-PER\nwrites VBZ I-VP O\n\n" * 20
LOSS = """import jax
from jaxllm.losses.preference import preference_loss

@preference_loss
def margin(p, *, beta=0.1):
    return -jax.nn.log_sigmoid(beta * p.delta_B - p.margin_B)
"""
POLICY_LOSS = """import jax.numpy as jnp
from jaxllm.losses import policy_loss

@policy_loss(reduction="sequence mean")
def soft(p, *, epsilon=0.2):
    return -jnp.tanh((p.ratio_BT - 1) / epsilon) * epsilon * p.advantages_BT
"""
REWARD = """def brief(prompt, completion, row):
    return -float(len(completion))
"""
SHAPE = {"vocab_size": 300, "width": 16, "depth": 1, "heads": 2, "mlp_width": 24, "max_positions": 1024, "tied": True}
TEXTS = {
    "model.json": json.dumps(SHAPE), "my_losses.py": LOSS, "my_policy.py": POLICY_LOSS,
    "my_rewards.py": REWARD, "books.jsonl": rows("text", 60),
    "reviews.csv": "text,label\n" + "".join(f"It was {('good', 'bad')[i % 2]} {i} times,{i % 2}\n" for i in range(40)),
    "questions.jsonl": "".join(json.dumps({"prompt": f"Is it {i}?", "answer": str(i)}) + "\n" for i in range(20)),
    "shakespeare.txt": "To be, or not to be: that is the question.\n" * 200,
    **dict.fromkeys(("chats.jsonl", "instructions.jsonl"), rows("asked", 40)),
    **dict.fromkeys(("pairs.jsonl", "more_pairs.jsonl"), rows("pair", 40)),
    "prompts.json": "[[1, 2, 3], [4, 5]]",
    "alpaca.json": as_list(rows("asked", 40)), "preference.json": as_list(rows("compared", 40)),
    **{f"{folder}/{split}.conll": SENTENCES for folder in ("wnut17", "path/to/wnut17") for split in ("train", "dev")},
    **{f"conll/{split}.txt": COLUMNS for split in ("train", "valid", "test")},
}  # fmt: skip
"""Files that commands name, small."""

RUNS = {
    "runs/pretrain-1a2b3c4d": "pretrain.py --model model.json --vocab-size 300 --dataset books.jsonl --sample-tokens 0",
    "runs/sft-1a2b3c4d": "sft.py --model runs/pretrain-1a2b3c4d --dataset chats.jsonl --lora-rank 2 --samples 0",
    "runs/reward-1a2b3c4d": "reward.py --model runs/pretrain-1a2b3c4d --dataset pairs.jsonl",
    "runs/ner-1a2b3c4d": "ner.py --dataset wnut17 --vocab-size 300",
    "runs/classify-1a2b3c4d": "classify.py --dataset reviews.csv --vocab-size 300",
    "runs/mlm-1a2b3c4d": "mlm.py --dataset books.jsonl --vocab-size 300",
}
"""Runs that commands name, and how they are made."""

LINKS = {
    "runs/three_stages/sft": "runs/sft-1a2b3c4d", "mine": "runs/pretrain-1a2b3c4d/hf",
    "path/to/llama": "runs/pretrain-1a2b3c4d/hf", "path/to/MiniLM": "runs/ner-1a2b3c4d/hf",
}  # fmt: skip
"""Other names of these."""

CAPITALS = {
    "SFT": "alpaca.json", "PREFERENCE": "preference.json", "SHAKESPEARE": "shakespeare.txt", "WNUT17": "wnut17",
    "CONLL": "conll", "MINILM": "path/to/MiniLM", "RUN": "runs/ner-1a2b3c4d", "S": "0",
}  # fmt: skip
"""What is put for names in capitals, which the documents explain: paths, and a seed."""

FILES = {"code.parquet", *TEXTS, *RUNS, *LINKS}
"""All of them."""


def write(folder: Path) -> None:
    """Puts the files into a folder."""
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["def f(x):\n    return x\n"] * 40}), folder / "code.parquet")


def link(folder: Path, world: Path, names: Iterable[str]) -> None:
    """Makes these of `world` to be found in another folder too."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(world / name)
