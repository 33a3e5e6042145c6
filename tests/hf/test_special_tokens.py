"""The tokens at which generation stops, from the tokenizer, its template and the files of a checkpoint."""

import json
import shutil

import pytest

from jaxllm import hf
from jaxllm.data.tokenizers import bpe
from jaxllm.types import InputError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def case(assets, tmp_path):
    """case(name) -> a copy of the folder of a case, opened."""

    def make(name):
        shutil.copytree(assets / "cases" / name, tmp_path / "model", dirs_exist_ok=True)
        return hf.open_model(str(tmp_path / "model"), "lm")

    return make


def ends(opened):
    return hf.special_tokens(opened.load_tokenizer(), opened).ends


def test_end_tokens_are_those_of_config_json_without_a_generation_config(case):
    opened = case("eos_list_in_config/model")
    own = {0, 2}  # the tokenizer's, and the end of its template's turns
    assert set(ends(opened)) == {*own, 242}
    (opened.folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert set(ends(opened)) == {*own, 7}
    (opened.folder / "generation_config.json").write_text("{}")
    assert set(ends(opened)) == own


def test_the_turn_end_of_a_template_is_one_and_fields_name_them_all():
    tokenizer = bpe(["plain"], 280)
    assert hf.special_tokens(tokenizer).ends == (0,)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = CHATML
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = hf.special_tokens(tokenizer)
    assert found.ends == (end, 0)
    assert found.fields() == {"eos_token_id": [end, 0], "pad_token_id": None, "bos_token_id": 0}
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert hf.special_tokens(tokenizer).ends == (0,), "a template that ends no turns"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("g1", r"generation_config.json holds a list, not an object; download"),
        ("g2", r"generation_config.json is no readable JSON \(.*\); download the checkpoint again"),
        ("g4", r"generation_config.json: eos_token_id is \[\[1\]\], wanted an id or a list of ids; mend the field"),
    ],
)
def test_a_broken_generation_config_is_one_line(name, words, case, command, capsys):
    opened = case(f"broken_generation_config/{name}")
    with pytest.raises(InputError, match=words):
        ends(opened)
    with pytest.raises(SystemExit) as stop:
        command("generate", opened.folder, "the king")
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "generation_config.json" in err


@pytest.mark.parametrize("value", ["x", 1.5, True, [1, "2"]])
def test_end_tokens_of_other_types_are_refused(value, case):
    opened = case("broken_generation_config/g4")
    (opened.folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(InputError, match="eos_token_id is"):
        ends(opened)


def test_fields_that_transformers_alone_uses_are_named(tmp_path):
    assert hf.unused_generation_fields(tmp_path) == []
    fields = {"repetition_penalty": 1.05, "temperature": 0.7, "num_beams": 1, "suppress_tokens": [5], "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    assert hf.unused_generation_fields(tmp_path) == [
        "generation_config.json: not used here, but by transformers: repetition_penalty=1.05, suppress_tokens=[5]"
    ]
