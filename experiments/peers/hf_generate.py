"""The peer of this project's generation: `generate` of transformers, in PyTorch, with the same prompts as one batch.

A fixed number of tokens, each drawn from the model's own probabilities, with the cache that transformers has by
default. It imports neither jax nor this project.

    python experiments/peers/hf_generate.py --model path/to/llama --prompts prompts.json --json out.json
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import tyro
from transformers import AutoModelForCausalLM
from transformers.generation import StoppingCriteria, StoppingCriteriaList

import measured


@dataclasses.dataclass(frozen=True)
class Config:
    """transformers on a file of prompts: new tokens per second."""

    model: Path
    """Folder of a causal language model."""
    prompts: Path
    """JSON file with a list of prompts, each a list of token ids."""
    json: Path
    """File to write the results to."""
    tokens: int = 64
    """New tokens of each prompt."""
    rounds: int = 3
    """Times that the prompts are continued and timed, after once more."""
    dtype: str = "float32"
    """Of weights and computation: float32 or bfloat16."""
    temperature: float = 1.0
    """Divides the logits before a token is drawn; 0 takes the likeliest token."""


class First(StoppingCriteria):
    """Notes when the first token came, and stops nothing."""

    def __init__(self) -> None:
        self.start: dict[str, float] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.start = self.start or measured.start()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def main(config: Config) -> None:
    """Continues the prompts, and writes the results."""
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=getattr(torch, config.dtype)).eval()
    model = model.to(measured.device())
    prompts = json.loads(config.prompts.read_text())
    width = max(map(len, prompts))
    tokens_BT, mask_BT = torch.zeros(len(prompts), width, dtype=torch.long), torch.zeros(len(prompts), width).long()
    for row, prompt in enumerate(prompts):  # padded on the left, as generation wants it
        tokens_BT[row, width - len(prompt) :], mask_BT[row, width - len(prompt) :] = torch.tensor(prompt), 1
    first = First()
    chosen = {"do_sample": True, "temperature": config.temperature, "top_k": 0} if config.temperature else {}

    def once() -> None:
        model.generate(
            tokens_BT.to(measured.device()), attention_mask=mask_BT.to(measured.device()), **chosen,
            max_new_tokens=config.tokens, min_new_tokens=config.tokens, pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([first]),
        )  # fmt: skip

    once()
    began = measured.now()
    for _ in range(config.rounds):
        once()
    seconds = (measured.now() - began) / config.rounds
    speed = {"tokens_per_s": len(prompts) * config.tokens / seconds, "step_s": seconds / config.tokens}
    config.json.write_text(json.dumps({"measured": {**speed, **first.start, **measured.memory()}}))
    print(f"{speed['tokens_per_s']:.1f} new tokens/s")


if __name__ == "__main__":
    main(tyro.cli(Config))
