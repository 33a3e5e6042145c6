"""The peer of this project's pretraining: GPT-2 in plain PyTorch, eager or compiled, on the characters of one text.

The model, its initialisation and the recipe are those that nanoGPT publishes for Shakespeare on a CPU: rows of text
from random offsets of the first nine tenths, AdamW with decay on matrices and embeddings, warm-up and a cosine.
Nothing is cleverer than it has to be; --compile hands the model to torch.compile. It imports neither jax nor this
project.

GPT-2: Radford et al. 2019, Language Models are Unsupervised Multitask Learners.

    python experiments/peers/torch_gpt.py --data shakespeare.txt --seeds 0 1 2
    python experiments/peers/torch_gpt.py --data shakespeare.txt --steps 300 --untimed-steps 50 --no-evaluate --compile
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

import measured


@dataclasses.dataclass(frozen=True)
class Config:
    """GPT-2 in PyTorch on characters: validation loss and speed."""

    data: Path
    """A text: its first nine tenths are for training, the rest for validation."""
    depth: int = 4
    """Blocks."""
    heads: int = 4
    """Of attention, in each block."""
    width: int = 128
    """Of the residual stream."""
    length: int = 64
    """Tokens of a row, and of the model's context."""
    batch_size: int = 12
    """Rows of a step."""
    steps: int = 2000
    """Optimizer steps."""
    learning_rate: float = 1e-3
    """At the peak; the cosine ends at a tenth of it."""
    warmup: int = 100
    """Steps of linear warm-up."""
    beta2: float = 0.99
    """AdamW's decay of the second moment."""
    weight_decay: float = 0.1
    """On matrices and embeddings."""
    vocab_size: int = 0
    """Rows of the token embedding, at least as many as the text has characters; 0 for as many."""
    bias: bool = True
    """Biases in the linear layers, as GPT-2 has them."""
    seeds: tuple[int, ...] = (0,)
    """One training each."""
    untimed_steps: int = 50
    """First steps that the rate leaves out: warming up."""
    compile: bool = False
    """Hand the model to torch.compile, which needs a C++ compiler on a CPU."""
    dtype: str = "float32"
    """That the model computes in: float32, or bfloat16 by autocast."""
    evaluate: bool = True
    """Measure the loss on all of the validation text, at the end."""
    json: Path | None = None
    """File to write the results to."""


class Block(nn.Module):
    """Attention and an MLP, each after a norm."""

    def __init__(self, config: Config):
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=config.bias)
        self.out = nn.Linear(width, width, bias=config.bias)
        self.up = nn.Linear(width, 4 * width, bias=config.bias)
        self.down = nn.Linear(4 * width, width, bias=config.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.norm_1(x_BTD)).split(D, dim=2)
        q, k, v = (x.view(B, T, self.heads, D // self.heads).transpose(1, 2) for x in qkv)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
        x_BTD = x_BTD + self.out(y)
        return x_BTD + self.down(F.gelu(self.up(self.norm_2(x_BTD)), approximate="tanh"))


class GPT(nn.Module):
    """Tokens to logits; the head is the token embedding."""

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, config.width)
        self.positions = nn.Embedding(config.length, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_stream = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * config.depth) if into_stream else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1], device=tokens_BT.device))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return F.linear(self.norm(x_BTD), self.tokens.weight)


def fail(message: str) -> NoReturn:
    """Bad input: one line on stderr and exit status 2."""
    print(message, file=sys.stderr)
    sys.exit(2)


def rate_at(config: Config, step: int) -> float:
    """The learning rate of a step counted from 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / (config.warmup + 1)
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def cross_entropy(model: nn.Module, tokens_BT: Tensor, dtype: str = "float32") -> Tensor:
    """Nats per token, of each token but the first of every row."""
    with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        logits_BTV = model(tokens_BT[:, :-1])
    return F.cross_entropy(logits_BTV.reshape(-1, logits_BTV.shape[-1]).float(), tokens_BT[:, 1:].reshape(-1))


@torch.no_grad()
def validate(model: GPT, text_N: Tensor, length: int) -> float:
    """The loss over the whole text, in rows side by side."""
    model.eval()
    total, count = 0.0, 0
    whole = (len(text_N) - 1) // length * length
    rows_BT = text_N[: whole + 1].unfold(0, length + 1, length)
    for part_BT in [*rows_BT.split(64), text_N[whole:][None]]:
        if part_BT.shape[1] > 1:
            n = part_BT.shape[0] * (part_BT.shape[1] - 1)
            total, count = total + float(cross_entropy(model, part_BT)) * n, count + n
    model.train()
    return total / count


def run(config: Config, seed: int, text_N: Tensor, vocab_size: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Trains with one seed: the last losses, the validation loss; and what it took, as `measured` has it."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = GPT(config, vocab_size).to(measured.device())
    text_N = text_N.to(measured.device())
    trained = torch.compile(model) if config.compile else model
    decayed = [p for p in model.parameters() if p.ndim == 2]
    spared = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
    )
    cut = int(len(text_N) * 0.9)
    train_N, dev_N = text_N[:cut], text_N[cut:]
    losses: list[Tensor] = []
    clock = measured.Steps()
    clock.begin()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(config, step)
        starts = rng.integers(0, len(train_N) - config.length, config.batch_size)
        rows_BT = torch.stack([train_N[i : i + config.length + 1] for i in starts])
        loss = cross_entropy(trained, rows_BT, config.dtype)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        clock.step()
    tokens = (config.steps - config.untimed_steps) * config.batch_size * config.length
    took = clock.report(config.untimed_steps, tokens_per_s=tokens / clock.seconds(config.untimed_steps))
    result = {"train_loss": float(torch.stack(losses[-100:]).mean())}
    return result | ({"dev_loss": validate(model, dev_N, config.length)} if config.evaluate else {}), took


def main(config: Config) -> None:
    """Runs each seed, prints a line for each and their means, writes the JSON file."""
    if not config.data.is_file():
        fail(f"{config.data}: no such file; --data wants a text")
    if not 0 <= config.untimed_steps < config.steps:
        fail(f"--untimed-steps {config.untimed_steps}: must leave at least one of the {config.steps} steps to time")
    text = config.data.read_text(encoding="utf-8")
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    text_N = torch.tensor([alphabet[character] for character in text])
    if len(text_N) * 0.1 <= config.length:
        fail(f"{config.data}: {len(text_N)} characters are too few for rows of {config.length}")
    results = []
    for seed in config.seeds:
        result, took = run(config, seed, text_N, max(config.vocab_size, len(alphabet)))
        results.append({**result, "tokens_per_s": took["tokens_per_s"]})
        print(f"seed {seed}", *(f"{name} {x:.4g}" for name, x in results[-1].items()), sep="  ", flush=True)
    means = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
    print("mean", *(f"{name} {x:.4g}" for name, x in means.items()), sep="  ")
    if config.json is not None:
        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        report = {"config": dataclasses.asdict(config), "versions": versions, "seeds": results, "mean": means,
                  "measured": took}  # fmt: skip
        config.json.write_text(json.dumps(report, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
