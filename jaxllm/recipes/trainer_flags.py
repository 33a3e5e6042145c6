"""What flags of TRL and of the Hugging Face Trainer are called here, for who types one from habit."""

from __future__ import annotations

import re
from collections.abc import Collection

_EVAL = "--eval-every takes a number of steps, or epoch; 0 for the end only"
_SAVE = "--checkpoint-every takes a number of steps, or epoch; 0 for the end only"
_LENGTH = "--max-length is the length of the longest example in tokens, prompt and answer together"
_WARMUP = "--warmup takes steps, or a share of all steps if it is below 1"
_BEST = "--best names the metric and its direction, as in --best dev/loss:min; the best step is kept and exported"
_HUB = "the run writes hf/ in its folder; `hf upload` sends that to the hub"
_ANSWERS = "--train-on answers, the default, learns the answers alone"

COUNTERPARTS = {
    "--lr": "--learning-rate",
    "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--max-steps": "--steps",
    "--per-device-train-batch-size": "--batch-size counts examples over all devices, not per device",
    "--per-device-eval-batch-size": "--eval-batch-size counts examples over all devices, not per device",
    "--train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--microbatches cuts each batch into parts instead of growing it: --batch-size "
    "stays the number of examples per optimizer step",
    "--max-seq-length": _LENGTH,
    "--max-seq-len": _LENGTH,
    "--model-max-length": _LENGTH,
    "--max-prompt-length": _LENGTH,
    "--max-completion-length": _LENGTH,
    "--block-size": _LENGTH,
    "--mlm-probability": "--mask-rate",
    "--truncation-mode": "--cut says which part of an example over --max-length is cut",
    "--warmup-ratio": _WARMUP,
    "--warmup-steps": _WARMUP,
    "--lr-scheduler-type": "--schedule",
    "--optim": "--optimizer",
    "--adam-beta2": "--beta2",
    "--output-dir": "--out",
    "--overwrite-output-dir": "a run folder is never overwritten: give another --out",
    "--resume-from-checkpoint": "the same command goes on from the newest checkpoint in its --out",
    "--save-steps": _SAVE,
    "--save-strategy": _SAVE,
    "--save-total-limit": "--keep",
    "--eval-steps": _EVAL,
    "--eval-strategy": _EVAL,
    "--evaluation-strategy": _EVAL,
    "--load-best-model-at-end": _BEST,
    "--metric-for-best-model": _BEST,
    "--greater-is-better": _BEST,
    "--early-stopping-patience": "--early-stopping",
    "--logging-steps": "--log-every",
    "--report-to": "--log-to",
    "--run-name": "--wandb-name is the run's name at Weights & Biases, --out its folder",
    "--bf16": "--dtype bfloat16",
    "--fp16": "--dtype bfloat16 is the type of half the size that models compute in here",
    "--torch-dtype": "--dtype",
    "--gradient-checkpointing": "--remat full",
    "--beta": "--loss-args beta=VALUE",
    "--label-smoothing": "--loss-args label_smoothing=VALUE",
    "--label-smoothing-factor": "--loss-args label_smoothing=VALUE",
    "--loss-type": "--loss",
    "--loss-weights": "--loss takes weights after colons, as in --loss sigmoid:0.8+sft:0.2",
    "--precompute-ref-log-probs": "--reference cached, the default, computes them once, before training",
    "--model-name-or-path": "--model",
    "--model-name": "--model",
    "--model-id": "--model",
    "--tokenizer-name": "--tokenizer",
    "--tokenizer-name-or-path": "--tokenizer",
    "--dataset-name": "--dataset",
    "--dataset-config": "--dataset takes it after a colon, as in --dataset NAME:CONFIG",
    "--dataset-config-name": "--dataset takes it after a colon, as in --dataset NAME:CONFIG",
    "--dataset-train-split": "--split names all of them, as in --split train=NAME,dev=NAME",
    "--dataset-test-split": "--split names all of them, as in --split train=NAME,dev=NAME",
    "--train-file": "--dataset",
    "--validation-file": "--eval-dataset",
    "--packing": "--pack, the default, puts several examples in a row",
    "--group-by-length": "--pack, the default, puts several examples in a row, which leaves little padding",
    "--assistant-only-loss": _ANSWERS,
    "--completion-only-loss": _ANSWERS,
    "--use-peft": "--lora-rank of 1 or more trains adapters",
    "--lora-r": "--lora-rank",
    "--lora-target-modules": "--lora-targets",
    "--fsdp": "--mesh fsdp=N shards the model over N devices",
    "--deepspeed": "--mesh fsdp=N shards the model over N devices",
    "--push-to-hub": _HUB,
    "--hub-model-id": _HUB,
}
"""Their flag: ours, or a sentence that begins with it where it is more than another name."""


def counterpart(name: str, flags: Collection[str]) -> str | None:
    """What to use in place of TRL's flag `name`, of the flags that the script has; None where there is nothing."""
    text = COUNTERPARTS.get(name)
    if text is None or not {*re.findall(r"--[a-z0-9-]+", text)} <= {*flags}:
        return None
    return f"here it is {text}" if re.fullmatch(r"--\S+( \S+)?", text) else text
