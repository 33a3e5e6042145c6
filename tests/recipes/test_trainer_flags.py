"""Names of TRL's and the Hugging Face Trainer's flags are answered with ours."""

import dataclasses
import re

import pytest

import mlm
import ner
import preference
import sft
from jaxllm.cli import tag
from jaxllm.recipes.parse import parse
from jaxllm.recipes.trainer_flags import COUNTERPARTS
from jaxllm.types import InputError


def said(config, *argv):
    with pytest.raises(InputError) as error:
        parse(config, argv)
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--lr", "here it is --learning-rate"), ("--num-train-epochs", "here it is --epochs"),
        ("--num_train_epochs", "here it is --epochs"), ("--max-steps", "here it is --steps"),
        ("--per-device-train-batch-size", "--batch-size counts examples over all devices"),
        ("--gradient_accumulation_steps", "--microbatches cuts each batch into parts instead of growing it"),
        ("--max-seq-length", "--max-length is the length of the longest example"),
        ("--warmup-ratio", "--warmup takes steps, or a share of all steps if it is below 1"),
        ("--warmup_steps", "--warmup takes steps"), ("--lr-scheduler-type", "here it is --schedule"),
        ("--output-dir", "here it is --out"), ("--save-steps", "--checkpoint-every takes a number of steps"),
        ("--save-total-limit", "here it is --keep"), ("--eval-steps", "--eval-every takes a number of steps"),
        ("--logging-steps", "here it is --log-every"), ("--report-to", "here it is --log-to"),
        ("--bf16", "here it is --dtype bfloat16"), ("--gradient-checkpointing", "here it is --remat full"),
        ("--beta", "here it is --loss-args beta=VALUE"), ("--loss-type", "here it is --loss "),
        ("--model-name-or-path", "here it is --model "), ("--dataset-name", "here it is --dataset "),
        ("--optim", "here it is --optimizer"), ("--push-to-hub", "`hf upload` sends that to the hub"),
        ("--resume-from-checkpoint", "the same command goes on from the newest checkpoint"),
        ("--run-name", "--wandb-name is the run's name"), ("--lora-r", "here it is --lora-rank"),
        ("--dataset_train_split", "--split names all of them"),
    ],
)  # fmt: skip
def test_a_flag_of_trl_is_answered_with_ours(given, answer):
    text = said(preference.Config, given, "2")
    assert text.startswith(f"there is no flag {given}: ")
    assert answer in text
    assert said(preference.Config, f"{given}=2") == text


def test_every_answer_names_flags_that_there_are():
    flags = {f"--{field.name.replace('_', '-')}" for config in (sft.Config, preference.Config, ner.Config, mlm.Config)
             for field in dataclasses.fields(config)}  # fmt: skip
    for given, text in COUNTERPARTS.items():
        assert {*re.findall(r"--[a-z0-9-]+", text)} <= flags, given
        assert given not in flags, f"{given} is ours"


def test_a_script_without_the_flag_is_not_told_of_it():
    assert "--reference" in said(preference.Config, "--precompute-ref-log-probs", "1")
    assert "--reference" not in said(sft.Config, "--precompute-ref-log-probs", "1")
    assert said(tag.Config, "model", "text", "--lr", "3") == "there is no flag --lr (see --help)"
