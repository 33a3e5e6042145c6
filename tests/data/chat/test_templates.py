"""Templates and special tokens given to a tokenizer."""

import copy

import pytest

from jaxllm.data.chat.encode import encode_messages, prompt_tokens
from jaxllm.data.chat.render import turn_end
from jaxllm.data.chat.templates import BUILTIN, give_pad, give_template
from jaxllm.data.tokenizers import save_and_reload
from jaxllm.types import InputError

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "The postman."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Letters."},
]
SHOWN = {
    "chatml": "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    "[The postman.<|im_end|>]\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n[Letters.<|im_end|>]\n",
    "plain": "<|endoftext|>System: Be brief.\nUser: Who?\nAssistant:[ The postman.<|endoftext|>]\nUser: Why?\n"
    "Assistant:[ Letters.<|endoftext|>]\n",
}


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_template_shows_turns_and_marks_answers(tokenizer, name):
    before = len(tokenizer)
    notes = give_template(tokenizer, name)
    found = encode_messages(MESSAGES, tokenizer, where="row 1")
    shown, before_it = "", False
    for token, inside in zip([*found.tokens], [*found.trained], strict=True):
        shown += ("" if inside == before_it else "[" if inside else "]") + tokenizer.decode([token])
        before_it = inside
    assert shown == SHOWN[name]
    prompt = prompt_tokens(MESSAGES[:-1], tokenizer)
    assert found.tokens[: len(prompt)].tolist() == prompt
    assert found.trained[len(prompt)]
    added = len(tokenizer) - before
    assert added == (2 if name == "chatml" else 0)
    assert any("tokens added: <|im_start|>, <|im_end|>" in note for note in notes) == bool(added)
    assert tokenizer.eos_token == ("<|im_end|>" if name == "chatml" else "<|endoftext|>")
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_no_begin_token_where_the_tokenizer_has_no_use_for_it(tokenizer):
    from tokenizers import processors

    tokenizer._tokenizer.post_processor = processors.ByteLevel()
    give_template(tokenizer, "plain")
    assert tokenizer.apply_chat_template(MESSAGES[1:2], tokenize=False) == "User: Who?\n"


def test_a_template_from_a_file(tokenizer, tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}{{ m['content'] + '<|stop|>' }}{% endfor %}")
    notes = give_template(tokenizer, str(path))
    assert turn_end(tokenizer) == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|stop|>")
    assert notes == [f"chat template: {path}", "tokens added: <|stop|>",
                     "EOS is now <|stop|>, which ends the assistant's turns; it was <|endoftext|>"]  # fmt: skip
    assert "instead of the tokenizer's own" in give_template(tokenizer, "plain")[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "does not end the assistant's turns"),
        ("{% for m in messages", "the chat template cannot show a question and its answer"),
        ("{{ messages[0].role.nothing.more }}", "the chat template cannot show a question and its answer"),
    ],
)
def test_a_bad_file_is_refused(tokenizer, tmp_path, text, fault):
    path = tmp_path / "own.jinja"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^--chat-template .*own.jinja: .*{fault}"):
        give_template(tokenizer, str(path))


def test_a_byte_order_mark_is_no_part_of_a_template(tokenizer, tmp_path):
    path = tmp_path / "own.jinja"
    path.write_bytes(b"\xef\xbb\xbf{% for m in messages %}{{ m['content'] + '<|stop|>' }}{% endfor %}")
    give_template(tokenizer, str(path))
    assert tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False) == "Be brief.<|stop|>"


def test_an_unknown_name(tokenizer):
    with pytest.raises(InputError, match="--chat-template chatlm: no such file, and built in are chatml and plain"):
        give_template(tokenizer, "chatlm")


def test_padding_is_added_where_there_is_none_or_it_is_eos(tokenizer):
    before = len(tokenizer)
    assert give_pad(copy.deepcopy(tokenizer)) == ["padding: <|pad|>, added (there was none)"]
    tokenizer.pad_token = tokenizer.eos_token
    assert give_pad(tokenizer) == ["padding: <|pad|>, added (<|endoftext|> has another use)"]
    assert tokenizer.pad_token_id == before == len(tokenizer) - 1
    assert give_pad(tokenizer) == []
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.pad_token = "<unk>"
    assert give_pad(tokenizer) == ["padding: <|pad|> (<unk> has another use)"]


def test_padding_that_the_vocabulary_has_is_used(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["[PAD]"]})
    before = len(tokenizer)
    assert give_pad(tokenizer) == ["padding: [PAD] (there was none)"]
    assert len(tokenizer) == before
    # Qwen's: once turns end with another token, the end of text is free for padding.
    other = copy.deepcopy(tokenizer)
    other.pad_token, other.bos_token = None, None
    give_template(other, "chatml")
    other.pad_token = other.eos_token
    assert other.pad_token == "<|im_end|>"
    give_pad(other)
    assert other.pad_token == "[PAD]"


def test_padding_is_not_what_ends_a_turn(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|turn|>' }}{% endfor %}"
    tokenizer.pad_token = "<|turn|>"
    give_pad(tokenizer)
    assert tokenizer.pad_token == "<|pad|>"
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<|turn|>") != tokenizer.eos_token_id


def test_a_changed_tokenizer_is_kept_by_its_contents(tokenizer, tmp_path):
    give_template(tokenizer, "chatml")
    give_pad(tokenizer)
    a, b = save_and_reload(tokenizer, tmp_path), save_and_reload(tokenizer, tmp_path)
    assert a.name_or_path == b.name_or_path
    assert [path.name for path in (tmp_path / "tokenizers").iterdir()] == [a.name_or_path.rpartition("/")[2]]
    assert (a.eos_token, a.pad_token, a.chat_template) == ("<|im_end|>", "<|pad|>", tokenizer.chat_template)
    assert (
        encode_messages(MESSAGES, a, where="").tokens.tolist()
        == encode_messages(MESSAGES, tokenizer, where="").tokens.tolist()
    )
    give_template(tokenizer, "plain")
    assert save_and_reload(tokenizer, tmp_path).name_or_path != a.name_or_path
