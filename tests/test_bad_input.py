"""Bad input to every script and command: one line that names the thing, exit status 2, and nothing written."""

import io
import json
import shlex
import shutil
import sys

import numpy as np
import pytest
from data_rows import write_jsonl
from safetensors.numpy import load_file, save_file
from started import SCRIPTS, start

from jaxllm.__main__ import COMMANDS
from jaxllm.recipes import reference
from jaxllm.train import fit

pytestmark = pytest.mark.usefixtures("not_to_the_end")

CHATS = [{"prompt": f"What is {n} plus 1?", "completion": f"It is {n + 1}."} for n in range(8)]
PAIRS = [{"prompt": f"What is {n} plus 1?", "chosen": f"It is {n + 1}.", "rejected": "No."} for n in range(8)]
WORDS = [{"tokens": ["Ada", "met", "Alan"], "ner_tags": ["B-person", "O", "B-person"]} for _ in range(8)]

FILES = {
    "empty.jsonl": "",
    "blank.jsonl": "\n\n",
    "broken.jsonl": json.dumps(CHATS[0]) + '\n{"prompt": "a", \n',
    "list.jsonl": "[1, 2]\n",
    "columns.jsonl": '{"a": 1, "b": 2}\n',
    "numbers.jsonl": '{"prompt": 1, "completion": 2}\n',
    "no_answer.jsonl": '{"prompt": "Why?", "completion": ""}\n',
    "messages.jsonl": '{"messages": "hello"}\n',
    "latin.jsonl": '{"prompt": "caf\xe9", "completion": "a"}\n'.encode("latin-1"),
    "a.xyz": "hello",
    "half.parquet": b"PAR1 and nothing else",
    "one_side.jsonl": '{"prompt": "a", "chosen": "b"}\n',
    "label.jsonl": '{"prompt": "a", "completion": "b", "label": "perhaps"}\n',
    "lengths.jsonl": '{"tokens": ["a", "b"], "ner_tags": ["O"]}\n',
    "tags.jsonl": '{"tokens": ["a"], "ner_tags": ["B-"]}\n',
    "empty.txt": "",
    "syntax.py": "def f(p:\n",
    "none.py": "from jaxllm.losses import preference_loss, token_loss\n@preference_loss\ndef f(p):\n    return None\n"
               "@token_loss\ndef t(logits_NV, targets_N):\n    return logits_NV\n"
               "@token_loss\ndef i(logits_NV, targets_N):\n    return targets_N\n"
               "def plain(model):\n    return {}\nnumber = 3\n",
    "shapes.py": "from jaxllm.losses import policy_loss, preference_loss\n"
                 "@preference_loss\ndef one(p):\n    return p.delta_B[:1]\n"
                 "@preference_loss\ndef square(p):\n    return p.delta_B[:, None] - p.delta_B[None]\n"
                 "@preference_loss\ndef total(p):\n    return p.delta_B.sum()\n"
                 "@policy_loss\ndef summed(p):\n    return p.sum(p.ratio_BT)\n",
    "unclosed.jinja": "{% for m in messages %}{{ m.content }}",
    "surrogate.jsonl": json.dumps({
        "text": "a \ud83d", "label": "a", "prompt": "a \ud83d", "completion": "b", "chosen": "b", "rejected": "c",
        "tokens": ["\ud83d"], "ner_tags": ["O"],
    }) + "\n",
    "tags.conll": "Ada B-person O\nmet O B-place\n",
    "config.json": "{",
    "list.json": "[]",
    "arch_broken.json": "{",
    "file": "a file",
}  # fmt: skip


def altered(source, folder, config=None, tensors=None):
    """A copy of a model with changed fields of config.json, or with its tensors passed through a function."""
    shutil.copytree(source, folder)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, **(config or {})}))
    if tensors:
        save_file(tensors(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory, llama, bert):
    """Names for command lines: {f} a folder of files, {llama} and {bert} models, {m} a folder of broken models ..."""
    root = tmp_path_factory.mktemp("bad")
    files, models = root / "f", root / "m"
    for folder in (files, models, files / "folder", models / "empty", models / "broken", models / "list"):
        folder.mkdir()
    for name, text in FILES.items():
        (files / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    write_jsonl(files / "chats.jsonl", CHATS * 2)
    write_jsonl(files / "pairs.jsonl", PAIRS * 2)
    write_jsonl(files / "words.jsonl", WORDS)
    write_jsonl(files / "labels.jsonl", [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(24)])
    write_jsonl(files / "questions.jsonl", [{"prompt": f"What is {n}?", "answer": str(n)} for n in range(16)])
    (files / "text.txt").write_text("To be, or not to be.\n" * 20)
    (files / "folder" / "notes.xyz").write_text("hello")
    (models / "broken" / "config.json").write_text("{")
    (models / "list" / "config.json").write_text("[]")
    altered(llama, models / "unsupported", {"model_type": "mamba9"})
    altered(llama, models / "untyped", {"model_type": None})
    altered(llama, models / "odd", {"num_attention_heads": 5})
    altered(llama, models / "missing", tensors=lambda x: {n: t for n, t in x.items() if "q_proj" not in n})
    altered(llama, models / "narrow", tensors=lambda x: {n: t[:-1] if "norm" in n else t for n, t in x.items()})
    altered(llama, models / "more", tensors=lambda x: {**x, "model.extra.weight": np.zeros(2, np.float32)})
    altered(llama, models / "plain")
    altered(bert, models / "paired", {"architectures": ["BertForSequenceClassification"], "text_pairs": True})
    for name in ("pickled", "weightless", "truncated", "wordless"):
        altered(llama, models / name)
    (models / "pickled" / "model.safetensors").rename(models / "pickled" / "pytorch_model.bin")
    (models / "weightless" / "model.safetensors").unlink()
    (models / "truncated" / "model.safetensors").write_bytes(b"\x08\0\0\0")
    for path in [*models.glob("wordless/tokenizer*"), *models.glob("wordless/*.jinja")]:
        path.unlink()
    run_of_sft = root / "run"
    run_of_sft.mkdir()
    (run_of_sft / "config.json").write_text(json.dumps({"script": "sft", "config": {"batch_size": 99}}))
    return {
        "f": files,
        "m": models,
        "llama": llama,
        "bert": bert,
        "run": run_of_sft,
        "tiny": f"--model {llama} --max-length 64",
    }


CASES = """
# flags that there are not, or of the wrong type
sft | --zzzzzz | --zzzzzz
ner | --num_train_epochs 3 | --epochs
compare_losses | --seed-s 1 | --seed
sft | --steps 1.5 | 1.5
sft | --batch-size 4 5 | 5
reward | --pack=perhaps | perhaps
compare_losses | --seeds 0 a | --seeds
three_stages | --pretrain-steps x | x
cache | --cler tokens | --clear
check-loss | dpo --loss-arg beta=1 | --loss-args
explain-sharding | small --devics 4 | --devices
generate | {llama} hi --max-token 3 | --max-tokens
losses | --field | --fields
show-batch | --rowz 3 | --rows
tag | {bert} hi --jsn | --json
verify-resume | --kils 3 {f}/none.py | --kil
launch | --proceses 3 {f}/none.py | --proceses
launch | --processes three {f}/none.py | three
verify-resume | --kills two {f}/none.py | two
explain-sharding | small --devices four | four
show-batch | --step first | first
convert | {llama} x --max-shard-gb big | big
tag | {bert} hi --max-length long | long
# numbers out of range
sft | --epochs inf | --epochs inf
pretrain | --batch-size 0 | --batch-size 0
reward | --eval-batch-size 0 | --eval-batch-size 0
sft | --learning-rate -1e-4 | --learning-rate -0.0001
sft | --max-grad-norm -1 | --max-grad-norm -1
sft | --beta2 2 | --beta2 2
sft | --keep 0 | --keep 0
sft | --eval-every -5 | --eval-every -5
sft | --holdout 1 | --holdout 1
sft | --holdout nan | --holdout nan
sft | --dropout 1.5 | --dropout 1.5
sft | --vocab-size 0 --model tiny --dataset {f}/chats.jsonl | --vocab-size 0
ner | --vocab-size -5 | --vocab-size -5
ner | --token-dropout 2 | --token-dropout 2
ner | --token-dropout -0.5 | --token-dropout -0.5
ner | --head-learning-rate nan | --head-learning-rate nan
reward | --head-learning-rate -1 | --head-learning-rate -1
pretrain | --final-learning-rate nan | --final-learning-rate nan
sft | --samples -1 | --samples -1
sft | --sample-tokens -1 | --sample-tokens -1
preference | --sample-tokens 0 | --sample-tokens 0
three_stages | --batch-size 0 | --batch-size 0
three_stages | --questions 0 | --questions 0
three_stages | --answer-tokens 0 | --answer-tokens 0
three_stages | --pretrain-steps -1 | --pretrain-steps -1
compare_losses | --samples 0 | --samples 0
sft | --seed -1 | --seed -1
reward | --seed 9223372036854775808 | --seed 9223372036854775808
mlm | --seed -1 | --seed -1
classify | --seed -1 | --seed -1
online | --seed 99999999999999999999 | --seed 99999999999999999999
mlm | --max-bad-rows 2 | --max-bad-rows 2
ner | --seed 99999999999999999999 | --seed 99999999999999999999
three_stages | --seed -1 | --seed -1
compare_losses | --seeds 0 -1 | --seeds -1
compare_losses | --seeds 99999999999999999999 | --seeds 99999999999999999999
generate | {llama} hi --seed 999999999999999999999 | --seed 999999999999999999999
generate | {llama} hi --seed -1 | --seed -1
verify-resume | --seed -1 {f}/none.py | --seed -1
generate | {llama} hi --max-tokens 0 | --max-tokens 0
generate | {llama} hi --temperature nan | temperature
generate | {llama} hi --top-p 1.5 | top_p=1.5
tag | {bert} hi --max-length 0 | --max-length 0
explain-sharding | small --devices -2 | --devices -2
explain-sharding | small --mesh data=0 | data=0
show-batch | --step -1 | --step -1
show-batch | --rows 0 | --rows 0
verify-resume | --kills 0 {f}/none.py | --kills 0
verify-resume | --devices -1 {f}/none.py | --devices -1
launch | --processes 0 {f}/none.py | --processes
launch | --devices-per-process 0 {f}/none.py | --devices-per-process
launch | --grace -1 {f}/none.py | --grace -1
launch | --grace nan {f}/none.py | --grace nan
# names that there are not
pretrain | --loss focl | focal
reward | --loss bradley | bradley_terry
preference | --loss cross_entropy | experiments/sft.py
sft | --schedule cosin | cosine
pretrain | --dtype bf16 | --dtype bf16
sft | --on-nan retry | --on-nan retry
sft | --mesh data | data
sft | --mesh data=3 | data=3
sft | --mesh data=64 | 64
explain-sharding | small --mesh model=2 | model
sft | --train-on questions | --train-on questions
preference | --cut drop | --cut drop
ner | --scheme IOBX | IOBX
compare_losses | --losses | --losses
compare_losses | --seeds | --seeds
cache | --clear everything | everything
check-loss | crossentropy | cross_entropy
losses | zzz | zzz
losses | sigmoid+sft | mixture
show-batch | --script ner | ner
show-batch | nothing_here | nothing_here
tag | {bert} hi --aggregation longest | --aggregation longest
tag | {bert} hi --words --aggregation simple | --words
jaxllm classify | {bert} | no text to classify
jaxllm classify | {bert} a b c | 3 texts
mlm | --mask-rate 0 | --mask-rate
mlm | --mask-rate 1.5 | --mask-rate
classify | --problem several | --problem
online | --num-generations 1 | --num-generations 1
online | --loss grpp | grpo
online | --reward exat | exact
convert | {llama} x --to run --dtype float16 | --dtype float16
nonsense | x | there is no command 'nonsense'
genrate | x | generate
# arguments of losses, and mixtures
sft | --loss-args beta | beta
sft | --loss focal --loss-args gamma=nan | gamma
preference | --loss dpo --loss-args f_divergence=forward | f_divergence
preference | --loss sigmoid:0+sft | weight
preference | --loss sigmoid+sigmoid | twice
preference | --loss sigmoid+sft --loss-args zeta=1 | zeta
preference | --loss kto --microbatches 2 | --microbatches 2
check-loss | dpo --loss-args beta=-1 | beta
check-loss | grpo --loss-args epsilon=-1 | epsilon
check-loss | sapo --loss-args epsilon=0.2 | epsilon
preference | --loss grpo | completions that the policy samples
sft | --loss grpo | completions that the policy samples
reward | --loss grpo | grpo
check-loss | dpo --loss-args beta | beta
# functions in the user's own files
sft | --loss {f}/syntax.py:f | syntax.py
sft | --loss {f}/none.py:g | none.py
sft | --loss {f}/none.py:number | number
sft | --loss {f}/none.py:plain | (model, batch, key)
sft | --loss {f}/none.py:t | none.py:t
sft | --loss {f}/none.py:i | none.py:i
sft | --loss {f}/none.py | none.py
preference | --loss {f}/none.py:f | None
preference | --loss {f}/shapes.py:one | [1]
preference | --loss {f}/shapes.py:square | [8, 8]
preference | --loss {f}/shapes.py:total | a scalar
check-loss | {f}/absent.py:f | absent.py
check-loss | {f}/syntax.py:f | syntax.py
check-loss | {f}/none.py:f | None
check-loss | {f}/shapes.py:one | [1]
check-loss | {f}/shapes.py:summed | one number per token, [8, 5]
compare_losses | --losses {f}/absent.py:f | absent.py
online | --reward {f}/absent.py:f | absent.py
online | --reward {f}/syntax.py:f | syntax.py
online | --reward {f}/none.py:g | none.py
online | --loss {f}/shapes.py:summed | one number per token
# models
sft | --model {m}/absent --dataset {f}/chats.jsonl | absent
sft | --model {m}/empty --dataset {f}/chats.jsonl | empty
sft | --model {m}/broken --dataset {f}/chats.jsonl | broken
sft | --model {m}/list --dataset {f}/chats.jsonl | list
sft | --model {m}/unsupported --dataset {f}/chats.jsonl | mamba9
sft | --model {m}/untyped --dataset {f}/chats.jsonl | model_type
sft | --model {m}/odd --max-length 64 --dataset {f}/chats.jsonl | 5
sft | --model {m}/missing --max-length 64 --dataset {f}/chats.jsonl | q_proj
sft | --model {m}/narrow --max-length 64 --dataset {f}/chats.jsonl | norm
sft | --model {m}/more --max-length 64 --dataset {f}/chats.jsonl | model.extra.weight
sft | --model {m}/pickled --max-length 64 --dataset {f}/chats.jsonl | .bin
sft | --model {m}/weightless --max-length 64 --dataset {f}/chats.jsonl | weightless
sft | --model {m}/truncated --max-length 64 --dataset {f}/chats.jsonl | truncated
sft | --model {m}/wordless --max-length 64 --dataset {f}/chats.jsonl | wordless
sft | --model {bert} --max-length 64 --dataset {f}/chats.jsonl | bert
sft | --model {f}/arch_broken.json --dataset {f}/chats.jsonl | arch_broken.json
ner | --model {llama} --dataset {f}/words.jsonl | llama
ner | --model {m}/absent --dataset {f}/words.jsonl | absent
mlm | --model {m}/absent --dataset {f}/text.txt | absent
mlm | --model {llama} --dataset {f}/text.txt | llama
classify | --model {m}/absent --dataset {f}/labels.jsonl | absent
online | --model {m}/absent --dataset {f}/questions.jsonl | absent
online | --model {bert} --dataset {f}/questions.jsonl | bert
pretrain | --model {m}/missing --max-length 64 --dataset {f}/text.txt | q_proj
preference | --model {m}/absent --dataset {f}/pairs.jsonl | absent
reward | --model {m}/pickled --max-length 64 --dataset {f}/pairs.jsonl | .bin
three_stages | --model {m}/absent --dataset {f}/chats.jsonl --preferences {f}/pairs.jsonl | absent
generate | {m}/absent hi | absent
generate | {m}/pickled hi | .bin
generate | {m}/missing hi | q_proj
generate | small hi | small
tag | {m}/absent hi | absent
tag | {llama} hi | llama
tag | {bert} | text
convert | {m}/absent x | absent
convert | {m}/missing x | q_proj
convert | {m}/pickled x | .bin
convert | {llama} {f}/folder | folder
explain-sharding | {m}/absent | absent
explain-sharding | smal | small
explain-sharding | {m}/broken | broken
show-batch | --model {m}/absent --dataset {f}/chats.jsonl | absent
# tokenizers and chat templates
sft | {tiny} --tokenizer {m}/absent --dataset {f}/chats.jsonl | absent
sft | {tiny} --tokenizer {m}/empty --dataset {f}/chats.jsonl | empty
sft | {tiny} --chat-template chatlm --dataset {f}/chats.jsonl | chatml
sft | {tiny} --chat-template {f}/unclosed.jinja --dataset {f}/chats.jsonl | template
preference | {tiny} --chat-template {f}/unclosed.jinja --dataset {f}/pairs.jsonl | template
online | {tiny} --max-completion-length 16 --chat-template {f}/unclosed.jinja --dataset {f}/questions.jsonl | template
show-batch | --chat-template chatlm {tiny} --dataset {f}/chats.jsonl | chatml
# data
preference | --dataset {f}/one_side.jsonl | one_side.jsonl
ner | --dataset {f}/lengths.jsonl | lengths.jsonl
sft | --dataset {f}/a.xyz | a.xyz
sft | --dataset {f}/no_answer.jsonl {tiny} | no_answer.jsonl
sft | --dataset {f}/columns.jsonl | columns.jsonl
sft | --dataset {f}/empty.jsonl | empty.jsonl
sft | --dataset {f}/broken.jsonl | line 2
sft | --dataset {f}/blank.jsonl | blank.jsonl
sft | --dataset {f}/list.jsonl | list.jsonl
sft | --dataset {f}/numbers.jsonl | numbers.jsonl
sft | --dataset {f}/messages.jsonl | messages.jsonl
sft | --dataset {f}/latin.jsonl | latin.jsonl
sft | --dataset {f}/half.parquet | half.parquet
sft | --dataset {m}/empty | empty
sft | --dataset "" | --dataset
sft | --dataset {f}/chats.jsonl --eval-dataset {f}/columns.jsonl | columns.jsonl
pretrain | --dataset {f}/empty.txt {tiny} | empty.txt
pretrain | --dataset {f}/text.txt:0 | weight
pretrain | --dataset {f}/text.txt --eval-dataset {f}/absent.txt | absent.txt
preference | --dataset {f}/absent.jsonl | absent.jsonl
preference | --dataset {f}/label.jsonl | label.jsonl
reward | --dataset {f}/chats.jsonl | chats.jsonl
ner | --dataset {f}/absent.jsonl | absent.jsonl
ner | --dataset {f}/tags.jsonl | B-
ner | --dataset {f}/words.jsonl --scheme IOB1 --model {m}/absent | absent
three_stages | --dataset {f}/absent.jsonl | absent.jsonl
three_stages | --dataset {f}/chats.jsonl --preferences {f}/absent.jsonl | absent.jsonl
mlm | --model tiny --dataset {f}/empty.txt | empty.txt
mlm | --model tiny --dataset {f}/columns.jsonl | no 'text' column
mlm | --model tiny --dataset {f}/absent.txt | absent.txt
mlm | --model tiny --dataset {f}/text.txt --holdout 1 | --holdout 1
classify | --dataset {f}/columns.jsonl | columns.jsonl
classify | --dataset {f}/broken.jsonl | line 2
classify | --dataset {f}/latin.jsonl | latin.jsonl
classify | --dataset {f}/absent.jsonl | absent.jsonl
classify | --dataset {f}/labels.jsonl --columns text=body | body
classify | --dataset {f}/labels.jsonl --columns answer=body | text, pair, label
classify | --model tiny --dataset {f}/labels.jsonl --class-weights a=0 | --class-weights a=0
classify | --model {m}/paired --dataset {f}/labels.jsonl | trained on pairs of texts
online | --dataset {f}/columns.jsonl | columns.jsonl
online | --dataset {f}/broken.jsonl | line 2
online | --dataset {f}/latin.jsonl | latin.jsonl
online | --dataset {f}/absent.jsonl | absent.jsonl
online | {tiny} --dataset {f}/questions.jsonl --reward-args exact.column=colour --max-completion-length 16 | colour
ner | --dataset {f}/tags.conll | --tag-column
preference | --dataset {f}/pairs.jsonl --columns chosen | --columns chosen
reward | --dataset {f}/pairs.jsonl --columns chosen=best | best
sft | {tiny} --dataset {f}/surrogate.jsonl | a lone surrogate
preference | {tiny} --dataset {f}/surrogate.jsonl | a lone surrogate
reward | {tiny} --dataset {f}/surrogate.jsonl | a lone surrogate
ner | --dataset {f}/surrogate.jsonl | a lone surrogate
classify | --dataset {f}/surrogate.jsonl | a lone surrogate
online | {tiny} --max-completion-length 16 --dataset {f}/surrogate.jsonl | a lone surrogate
pretrain | {tiny} --dataset {f}/surrogate.jsonl | a lone surrogate
mlm | --model tiny --dataset {f}/surrogate.jsonl | a lone surrogate
# data on other machines, and its own splits
sft | --dataset zzz://bucket/a.jsonl | zzz
sft | --dataset memory://nowhere/a.jsonl | memory://nowhere/a.jsonl
pretrain | --dataset memory://nowhere/a.txt.gz {tiny} | memory://nowhere/a.txt.gz
pretrain | --dataset gs://bucket/train-*.jsonl.zst {tiny} | pip install gcsfs
ner | --dataset s3://bucket/words.jsonl | pip install s3fs
preference | --dataset {f}/pairs.jsonl --eval-dataset abfs://a/b.jsonl | pip install adlfs
reward | --dataset memory://nowhere/*.jsonl | memory://nowhere/*.jsonl
show-batch | --dataset zzz://bucket/a.jsonl | zzz
sft | --split train | train=NAME
reward | --split dev=a | train=NAME
pretrain | --split trian=a | train
pretrain | --dataset {f}/text.txt --split train=other {tiny} | text.txt
sft | --dataset {f}/chats.jsonl --split train=chats,dev=other | chats.jsonl
sft | --split train=train,dev=validation | train, dev
preference | --dataset {f}/pairs.jsonl --split train=other | pairs.jsonl
ner | --dataset {f}/words.jsonl --split train=other | words.jsonl
ner | --split train=other | test
compare_losses | --dataset {f}/pairs.jsonl --split train=other | pairs.jsonl
three_stages | --dataset {f}/chats.jsonl --split train=other | chats.jsonl
show-batch | --dataset {f}/chats.jsonl --split train=other | chats.jsonl
show-batch | --dataset {f}/absent.jsonl | absent.jsonl
show-batch | --dataset {f}/columns.jsonl | columns.jsonl
show-batch | {f}/file | file
# the run folder
sft | --out {f}/file | file
sft | --out {f}/file/inner | inner
sft | --out gs://bucket/run | gs://bucket/run
sft | --out {run} | batch_size 99 there
ner | --out {run} | script 'sft' there
pretrain | --out {f}/file | file
preference | --out {f}/file | file
reward | --out {f}/file | file
ner | --out {f}/file | file
mlm | --out {f}/file | file
classify | --out {f}/file | file
online | --out {f}/file | file
three_stages | --out {f}/file | file
compare_losses | --out {f}/file | file
sft | --config {f}/config.json | config.json
sft | --config | --config
sft | {tiny} --dataset {f}/chats.jsonl --samples 0 --checkpoints {f}/file | {f}/file
# the best step, early stopping, frozen parameters
sft | --early-stopping 2 | --best
sft | --early-stopping -1 | --early-stopping -1
sft | --best dev/loss | --best dev/loss
sft | --best loss:min | --best loss:min
sft | --best dev/loss:least | --best dev/loss:least
sft | {tiny} --dataset {f}/chats.jsonl --samples 0 --best test/loss:min | test/loss
sft | {tiny} --dataset {f}/chats.jsonl --samples 0 --best dev/lost:min | dev/lost
sft | {tiny} --dataset {f}/chats.jsonl --samples 0 --freeze * | --freeze
online | {tiny} --max-completion-length 16 --dataset {f}/questions.jsonl --freeze * | --freeze
preference | {tiny} --dataset {f}/pairs.jsonl --samples 0 --freeze * | --freeze
mlm | --model tiny --dataset {f}/text.txt --holdout 0 --best dev/loss:min | evaluations: none here
sft | {tiny} --dataset {f}/chats.jsonl --samples 0 --freeze encoder.* | encoder.*
sft | {tiny} --dataset {f}/chats.jsonl --samples 0 --freeze blocks[:1.* | blocks[:1.*
pretrain | {tiny} --dataset {f}/text.txt --sample-tokens 0 --best dev/f1:max | dev/f1
preference | {tiny} --dataset {f}/pairs.jsonl --samples 0 --best dev/f1:max | dev/f1
mlm | --model tiny --dataset {f}/text.txt --holdout 0.5 --best dev/f1:max | dev/f1
classify | --model tiny --dataset {f}/labels.jsonl --best dev/f2:max | dev/f2
online | {tiny} --max-completion-length 16 --dataset {f}/questions.jsonl --best dev/f1:max | dev/f1
reward | {tiny} --dataset {f}/pairs.jsonl --best dev/f1:max | dev/f1
ner | --model {bert} --dataset {f}/words.jsonl --best dev/f2:max | dev/f2
ner | --model {bert} --dataset {f}/words.jsonl --freeze * | --freeze
# LoRA
sft | --lora-rank -1 --dataset {f}/chats.jsonl | --lora-rank -1
sft | --lora-rank 4 --lora-alpha 0 --dataset {f}/chats.jsonl | --lora-alpha
sft | --lora-rank 4 --lora-alpha nan --dataset {f}/chats.jsonl | --lora-alpha
sft | --lora-rank 4 --lora-dropout 2 --dataset {f}/chats.jsonl | --lora-dropout 2
sft | {tiny} --dataset {f}/chats.jsonl --lora-rank 4 --lora-targets zzz | zzz
sft | {tiny} --dataset {f}/chats.jsonl --lora-from {m}/absent | absent
sft | {tiny} --dataset {f}/chats.jsonl --lora-from {llama} | adapter_config.json
# processes
sft | --coordinator host:1 --processes 2 --process-id 5 | --process-id 5
# what takes the command line of another program
plan | | script
plan | {f}/absent.py --topology cpu:8 | absent.py
plan | {f}/none.py | --topology
plan | {f}/none.py --topology v5q:4x4 | v5q:4x4
plan | {f}/none.py --topology cpu:8 --tokens -1 | --tokens -1
plan | {f}/none.py --topology cpu:8 --finalists 0 | --finalists 0
verify-resume | | script
verify-resume | {f}/absent.py | absent.py
verify-resume | {f}/none.py --out x | --out
verify-resume | {f}/none.py --checkpoints x | --checkpoints
verify-resume | --on "--mesh 'a" {f}/none.py | --on
launch | | script
launch | {f}/absent.py | absent.py
launch | --processes 2 | script
"""


def rows():
    """(program, words, fragment) of each line of CASES."""
    lines = [line for line in CASES.splitlines() if line and not line.startswith("#")]
    return [tuple(part.strip() for part in line.split("|")) for line in lines]


def nothing_refused_it(*_):
    """Takes the place of the functions with which training begins to write, and the reference to compute."""
    raise AssertionError("training would start")


@pytest.mark.parametrize(("program", "words", "fragment"), rows(), ids=[f"{r[0]} {r[1]}" for r in rows()])
def test_bad_input_is_refused_in_one_line(program, words, fragment, here, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(here["f"].parent / "cache"))
    monkeypatch.setattr(fit, "start_run", nothing_refused_it)
    monkeypatch.setattr(reference, "load_start", nothing_refused_it)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    argv = shlex.split(words.format(**here))
    with pytest.raises(SystemExit) as stop:
        start(program, argv, monkeypatch)
    said = capfd.readouterr().err
    assert stop.value.code == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    assert fragment.format(**here) in said
    assert [str(path) for path in tmp_path.rglob("*")] == []


def test_every_script_and_command_is_in_the_table():
    programs = {program for program, _, _ in rows()}
    assert programs >= {*SCRIPTS, *COMMANDS, "launch"}
    assert len(rows()) >= 200
