"""Chat templates and special tokens as models publish them: what is learnt with each, or one line that refuses it."""

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxllm.data.chat.encode import encode_completion, encode_messages
from jaxllm.data.chat.rows import dialogue
from jaxllm.data.report import BadRow

SHOWN = "{{ '<|im_start|>' + m.role + '\n' + CONTENT + '<|im_end|>\n' }}"
CHATML = (
    "{% for m in messages %}" + SHOWN.replace("CONTENT", "m.content") + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENED = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
"""The generation prompt begins the reasoning."""
WITHOUT_REASONING = "m.content.split('</think>')[-1].lstrip('\n')"
QWEN3 = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}"
    "{% set said = " + WITHOUT_REASONING + " %}{% set thought = m.reasoning_content or '' %}"
    "{% if '</think>' in m.content %}{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% endif %}{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    + SHOWN.replace("CONTENT", "'<think>\n' + thought + '\n</think>\n\n' + said")
    + "{% else %}"
    + SHOWN.replace("CONTENT", "said")
    + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content + eos_token }}{% endfor %}"
)


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


TALK = [user("Who was that?"), said("The postman."), user("And this?"), said("His dog.")]
ENDED = ["The postman.<|im_end|>", "His dog.<|im_end|>"]
THINKING = [user("Who?"), said("<think>\none\n</think>\n\nHe."), user("And?"), said("<think>\ntwo\n</think>\n\nShe.")]


@pytest.fixture
def chatml(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def learnt(messages, tokenizer):
    """(the text of each run of learnt tokens, the text of all tokens)."""
    found = encode_messages(messages, tokenizer, where="row 4")
    runs, before = [], False
    for token, inside in zip(found.tokens, found.trained, strict=True):
        runs += [[]] if inside and not before else []
        if inside:
            runs[-1].append(token)
        before = inside
    return [tokenizer.decode(run) for run in runs], tokenizer.decode(found.tokens)


@pytest.mark.parametrize(
    ("template", "messages", "wanted"),
    [
        (CHATML.replace("m.content", "m.content | trim"), [user("Who?"), said(" It was. \n")], ["It was.<|im_end|>"]),
        (CHATML.replace("m.role", "('model' if m.role == 'assistant' else m.role)").replace("assistant\n'", "model\n'"),
         TALK, ENDED),
        (QWEN3, THINKING, ["He.<|im_end|>", "<think>\ntwo\n</think>\n\nShe.<|im_end|>"]),
        (QWEN3, [user("Who?"), said("He.", reasoning_content="one")], ["<think>\none\n</think>\n\nHe.<|im_end|>"]),
        ({"default": CHATML, "tool_use": ALTERNATING}, TALK, ENDED),
        (CHATML.replace("m.content", WITHOUT_REASONING), THINKING[:2], ["He.<|im_end|>"]),
    ],
    ids=["trimmed", "model for assistant", "earlier reasoning dropped", "reasoning_content", "named default",
         "reasoning dropped"],
)  # fmt: skip
def test_what_a_template_shows_of_an_answer_is_learnt_with_its_end(chatml, template, messages, wanted):
    chatml.chat_template = template
    assert learnt(messages, chatml)[0] == wanted


@pytest.mark.parametrize(
    ("template", "messages", "fault"),
    [
        (ALTERNATING, [*TALK[:2], {"role": "tool", "content": "2"}, said("Two.")],
         "row 4: the chat template refuses it: roles must alternate"),
        (OPENED, TALK, r"row 4: .*\(message 2\) otherwise once .* \{% generation %\} marks"),
        (OPENED.replace("m.content", WITHOUT_REASONING), THINKING[:2], r"row 4: .*\{% generation %\} marks"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}"
         "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
         TALK, r"row 4: the chat template shows 1 ends of turns to learn \(<\|endoftext\|>\) for 2 turns"),
    ],
    ids=["a tool's turn", "a prompt that begins the reasoning", "reasoning cut out",
         "an end after the last turn alone"],
)  # fmt: skip
def test_what_a_template_cannot_show_is_a_bad_row(chatml, template, messages, fault):
    chatml.chat_template = template
    with pytest.raises(BadRow, match=fault):
        learnt(messages, chatml)


def test_a_system_prompt_of_the_templates_own_is_written_once_and_not_learnt(chatml):
    own = "{{ '<|im_start|>system\nYou are Q.<|im_end|>\n' }}"
    chatml.chat_template = "{% if messages[0].role != 'system' %}" + own + "{% endif %}" + CHATML
    runs, text = learnt(TALK, chatml)
    assert (runs, text.count("You are Q.")) == (ENDED, 1)
    runs, text = learnt([{"role": "system", "content": "Be brief."}, *TALK], chatml)
    assert (runs, text.count("system")) == (ENDED, 1)


def test_begin_and_end_tokens_are_those_of_the_template_alone(tokenizer):
    """Although the tokenizer adds a begin and an end token to texts."""
    end = tokenizer.eos_token_id
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    runs, text = learnt(TALK[:2], tokenizer)
    assert runs == ["The postman.<|endoftext|>"]
    assert text == "<|endoftext|>Who was that?<|endoftext|>The postman.<|endoftext|>"


@pytest.mark.parametrize("pad", ["<|im_end|>", "<|endoftext|>", "<|im_start|>"])
def test_ends_of_turns_are_learnt_whatever_the_padding_token_is(chatml, pad):
    chatml.pad_token = pad
    assert learnt(TALK, chatml)[0] == ENDED
    completion = encode_completion("Who?", " He.", chatml, where="row 1")
    assert (completion.tokens[-1], completion.trained[-1]) == (chatml.eos_token_id, True)


def test_truncation_and_padding_of_tokenizer_json_are_not_done(chatml):
    chatml.add_special_tokens({"pad_token": "<|pad|>"})
    wanted = learnt(TALK, chatml), encode_completion("Who was that?", " It was he.", chatml, where="").tokens.tolist()
    chatml.backend_tokenizer.enable_truncation(4)
    chatml.backend_tokenizer.enable_padding(length=60, pad_id=chatml.pad_token_id, pad_token="<|pad|>")
    found = learnt(TALK, chatml), encode_completion("Who was that?", " It was he.", chatml, where="").tokens.tolist()
    assert found == wanted
    assert wanted[0][0] == ENDED


def test_turn_tokens_that_swallow_the_space_after_them(tokenizer):
    names = ("<|im_start|>", "<|im_end|>")
    added = [AddedToken(name, rstrip=True, special=True) for name in names]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    tokenizer.chat_template = CHATML
    assert tokenizer.decode(tokenizer("<|im_end|>\nx", add_special_tokens=False)["input_ids"]) == "<|im_end|>x"
    assert learnt(TALK, tokenizer)[0] == ENDED


def test_marks_that_end_on_space_which_the_tokenizer_strips():
    words = ["<unk>", "<|im_start|>", "<|im_end|>", "user", "assistant", "Who", "The", "postman", "His", "dog"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    made.chat_template = (
        "{% for m in messages %}{{ '<|im_start|> ' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + ' <|im_end|>\n \n' }}{% endgeneration %}"
        "{% else %}{{ m.content + ' <|im_end|>\n' }}"
        "{% endif %}{% endfor %}"
    )
    runs, _ = learnt([user("Who"), said("The postman"), user("Who"), said("His dog")], made)
    assert runs == ["The postman <|im_end|>", "His dog <|im_end|>"]


@pytest.mark.parametrize(
    ("messages", "number"),
    [
        ([user("What is <|im_start|>assistant?"), said("x")], 1),
        ([user("Who?"), said("a <|im_start|>user b")], 2),
        ([user("a <|im_end|> b"), said("x")], 1),
    ],
)
def test_a_text_that_spells_what_marks_turns_is_a_bad_row(chatml, messages, number):
    with pytest.raises(BadRow, match=rf"row 4, message {number}: it spells <\|im_\w+\|>, with which the chat template"):
        learnt(messages, chatml)
    assert learnt([user("What is <|endoftext|>?"), TALK[1]], chatml)[0] == ENDED[:1]


def test_a_first_token_that_nothing_predicts_is_not_lost_with_the_rest(tokenizer):
    tokenizer._tokenizer.post_processor = processors.ByteLevel()
    found = encode_completion("", "A text.", tokenizer, where="row 1")
    assert tokenizer.decode(found.tokens) == "A text.<|endoftext|>"
    assert found.trained.all()


def test_reasoning_beside_the_content_stays_with_the_message():
    row = {"messages": [user("Who?"), said("He.", reasoning_content="one")]}
    assert dialogue(row, "row 1").messages[1]["reasoning_content"] == "one"
