"""Texts continued from the command line: one batch, streamed; token for token the rest is in tests/evals."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm import hf
from jaxllm.cli import generate as cli
from jaxllm.data.tokenizers import bpe
from jaxllm.evals import text
from jaxllm.evals.generate import Sampling, generate
from jaxllm.models import encoder
from jaxllm.models.decoder import SHARDING, Config, Decoder
from jaxllm.models.heads import Tagger, TaggerConfig
from jaxllm.params import describe

CONFIG = Config(vocab_size=280, width=16, depth=2, heads=2, mlp_width=24, max_positions=64, unroll=1)
PROMPTS = ["some words of a", "hm", "words, and many more words than the others have"]
CHAT = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}={% endif %}"


@pytest.fixture(scope="module")
def tokenizer():
    made = bpe(["some words of a tokenizer, and many more words"] * 3, 280)
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="module")
def model():
    graphdef = describe(lambda rngs: Decoder(CONFIG, rngs), SHARDING).graphdef
    draw = np.random.default_rng(3)
    return graphdef, {n: jnp.asarray(0.6 * draw.normal(size=x.shape), x.dtype) for n, x in graphdef.abstract.items()}


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    hf.export(path, model[1], CONFIG, tokenizer)
    return path


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_prompts_are_one_batch_shown_in_order(command, folder, model, tokenizer, capsys, monkeypatch):
    batches = []
    original = text.generate
    monkeypatch.setattr(text, "generate", lambda *a, **k: batches.append(len(a[2])) or original(*a, **k))
    command("generate", folder, *PROMPTS, "--temperature", "0", "--max-tokens", "20")
    shown = capsys.readouterr().out
    assert batches == [3]
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    expected = generate(*model, ids, max_tokens=20, stop=[0])
    assert shown == "".join(
        prompt + text_of(tokenizer, new) + "\n" for prompt, new in zip(PROMPTS, expected, strict=True)
    )
    one = [generate(*model, [prompt], max_tokens=20, stop=[0])[0] for prompt in ids]
    assert one == expected


@pytest.mark.parametrize(
    ("flags", "sampling"),
    [
        (["--temperature", "2", "--top-k", "5"], Sampling(2.0, 5)),
        (["--top-p", "0.4", "--mesh", "fsdp=4,tensor=2"], Sampling(0.8, 0, 0.4)),
    ],
)
def test_sampling(flags, sampling, command, folder, model, tokenizer, capsys):
    command("generate", folder, PROMPTS[0], "--max-tokens", "12", "--seed", "4", *flags)
    new = generate(*model, [tokenizer(PROMPTS[0])["input_ids"]], sampling, max_tokens=12, stop=[0], seed=4)
    assert capsys.readouterr().out == PROMPTS[0] + text_of(tokenizer, new[0]) + "\n"


def test_chat(command, folder, model, tokenizer, capsys):
    def answer(prompt):
        ids = tokenizer(f"[{prompt}]=", add_special_tokens=False)["input_ids"]
        return text_of(tokenizer, generate(*model, [ids], max_tokens=9, stop=[0])[0])

    command("generate", folder, "hm", "--chat", "--temperature", "0", "--max-tokens", "9")
    assert capsys.readouterr().out == answer("hm") + "\n"
    command("generate", folder, "hm", "more", "--chat", "--temperature", "0", "--max-tokens", "9")
    assert capsys.readouterr().out == f"> hm\n{answer('hm')}\n> more\n{answer('more')}\n"


def test_end_tokens_are_the_tokenizers_and_the_checkpoints(command, folder, model, tokenizer, capsys):
    ids = tokenizer("hm")["input_ids"]
    free = generate(*model, [ids], max_tokens=20)[0]
    end = free[6]
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [0, end], "repetition_penalty": 1.1}))
    command("generate", folder, "hm", "--temperature", "0")
    path.unlink()
    upto = free[: free.index(end) + 1]
    out, err = capsys.readouterr()
    assert out == "hm" + text_of(tokenizer, upto) + "\n"
    assert err == "generation_config.json: not used here, but by transformers: repetition_penalty=1.1\n"


def test_stop_texts_are_unescaped():
    assert [cli.unescape(x) for x in (r"\n\n", r"a\tb", r"\\n", r"\d", "\n")] == ["\n\n", "a\tb", r"\n", r"\d", "\n"]


def test_generation_stops_at_the_end_tokens_of_config_json(command, assets, capsys):
    folder = assets / "cases" / "eos_list_in_config" / "model"
    command("generate", folder, "the king", "--temperature", "0", "--max-tokens", "12")
    tokenizer = hf.load_tokenizer(str(folder))
    assert capsys.readouterr().out == "the king" + text_of(tokenizer, [244, 399, 117, 325, 181, 242]) + "\n"


def test_rows_are_shown_in_turn_the_first_unfinished_one_live():
    shown = []
    write = cli.in_turn(["A", "B", "C"], lambda text: shown.append(text))
    for call in ((0, "1", False), (1, "2", True), (2, "3", False), (0, "4", True), (2, "5", True)):
        write(*call)
    assert [text for text in shown if text] == ["A1", "4\n", "B2\n", "C3", "5\n"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["hm", "word " * 80], "prompt 1 has "),
        (["hm", "word " * 80], "the context of 64 takes 1 to 63 and a new one: shorten it"),
        ([], "no prompt"),
        (["hm", "--max-tokens", "0"], "--max-tokens 0: at least 1"),
        (["h\udcff"], "the prompt 'h\\udcff': not UTF-8 at character 2"),
        (["hm", "--temperature", "-1"], "temperature=-1.0"),
        (["hm", "--top-p", "0"], "top_p=0.0"),
        (["hm", "--top-k", "-2"], "top_k=-2"),
        (["hm", "--dtype", "int8"], "--dtype int8: give one of float32, bfloat16"),
        (["hm", "--mesh", "data=3"], "--mesh data=3 wants 3 devices"),
        (["hm", "--top-q", "1"], "there is no flag --top-q; did you mean --top-"),
    ],
)
def test_bad_input_is_one_line(argv, words, command, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        command("generate", folder, *argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_what_cannot_generate(command, folder, model, tokenizer, tmp_path, capsys):
    tagger = TaggerConfig(encoder.Config(280, 8, 1, 2, 8, max_positions=16), ("O", "B-x"))
    shapes = describe(lambda rngs: Tagger(tagger, rngs), ()).graphdef.abstract
    hf.export(tmp_path / "tagger", {n: np.zeros(x.shape, np.float32) for n, x in shapes.items()}, tagger, tokenizer)
    hf.export(tmp_path / "mute", model[1], CONFIG, None)
    for source, flags, words in (
        (tmp_path / "tagger", [], "model_type is 'bert', supported here"),
        ("gpt2-124m", [], "gpt2-124m is a preset, which has no weights"),
        (tmp_path / "nothing", [], "is no folder"),
        (tmp_path / "mute", [], "has no tokenizer"),
    ):
        with pytest.raises(SystemExit) as stop:
            command("generate", source, "hm", *flags)
        err = capsys.readouterr().err
        assert (stop.value.code, err.count("\n")) == (2, 1)
        assert words in err


def test_ids_beyond_the_vocabulary(command, model, tokenizer, tmp_path, capsys):
    """A tokenizer of another model."""
    small = dict(model[1])
    small["embeddings.tokens.embedding"] = small["embeddings.tokens.embedding"][:40]
    small["unembed.kernel"] = small["unembed.kernel"][:, :40]
    hf.export(tmp_path / "small", small, dataclasses.replace(CONFIG, vocab_size=40), tokenizer)
    with pytest.raises(SystemExit):
        command("generate", tmp_path / "small", "hm")
    assert "prompt 0 has ids outside the vocabulary of 40: use its own tokenizer" in capsys.readouterr().err
