"""Which tokens of a conversation are learnt."""

import numpy as np
import pytest

from jaxllm.data import tokenizers
from jaxllm.data.chat.encode import (
    encode,
    encode_completion,
    encode_messages,
    ignored_options,
    prompt_tokens,
)
from jaxllm.data.chat.render import turn_end
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.chat.templates import give_template
from jaxllm.data.report import BadRow
from jaxllm.types import InputError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INSTRUCT = (  # in Mistral's manner: no role names, EOS after the answer
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
HEADERLESS = CHATML.partition("{% if add_generation_prompt")[0]  # does not know how to begin a turn

ONE = [{"role": "user", "content": "Who was that?"}, {"role": "assistant", "content": "It was the postman."}]
TWO = [
    {"role": "system", "content": "Be brief."},
    *ONE,
    {"role": "user", "content": "And this one?"},
    {"role": "assistant", "content": "His dog, the postman said."},
]


@pytest.fixture
def chatml(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def learnt(encoded, tokenizer):
    """The text of each run of learnt tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], encoded.trained, [0]])))
    return [tokenizer.decode(encoded.tokens[a:b]) for a, b in edges.reshape(-1, 2)]


ANSWERS = ["It was the postman.<|im_end|>", "His dog, the postman said.<|im_end|>"]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_every_turn_of_the_assistant_is_learnt_with_its_end_and_nothing_else(chatml, template):
    chatml.chat_template = template
    found = encode_messages(TWO, chatml, where="row 1")
    assert found.tokens.dtype == np.int32
    assert found.trained.dtype == bool
    assert learnt(found, chatml) == ANSWERS
    whole = chatml.apply_chat_template(TWO, return_dict=True)["input_ids"]
    assert found.tokens.tolist() == whole


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_the_last_turn_alone(chatml, template):
    chatml.chat_template = template
    assert learnt(encode_messages(TWO, chatml, where="row 1", last_only=True), chatml) == ANSWERS[1:]
    assert learnt(encode(Dialogue(TWO, last_only=True), chatml, where="row 1"), chatml) == ANSWERS[1:]


def test_marks_that_leave_the_end_out_or_go_on_behind_it(chatml):
    inside = "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    for marks in ("{% generation %}{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
                  "{% generation %}{{ m['content'] + '<|im_end|>\n' }}{% endgeneration %}"):  # fmt: skip
        chatml.chat_template = MARKED.replace(inside, marks)
        assert learnt(encode_messages(TWO, chatml, where="row 1"), chatml) == ANSWERS


def test_marks_that_miss_a_turn_are_refused(chatml):
    chatml.chat_template = MARKED.replace("m['role'] == 'assistant'", "m['role'] == 'assistant' and loop.last")
    with pytest.raises(InputError, match=r"row 7: the chat template shows 1 ends of turns to learn .* for 2 turns"):
        encode_messages(TWO, chatml, where="row 7")


def test_eos_after_the_answer_where_a_template_names_no_roles(tokenizer):
    tokenizer.chat_template = INSTRUCT
    found = encode_messages(TWO[1:], tokenizer, where="row 1")
    assert learnt(found, tokenizer) == [" It was the postman.<|endoftext|>", " His dog, the postman said.<|endoftext|>"]
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_a_template_that_cannot_begin_a_turn_has_its_header_learnt(chatml):
    chatml.chat_template = HEADERLESS
    assert turn_end(chatml) == chatml.convert_tokens_to_ids("<|im_end|>")
    assert learnt(encode_messages(ONE, chatml, where="row 1"), chatml) == ["<|im_start|>assistant\n" + ANSWERS[0]]


def test_a_token_that_spans_the_boundary_is_learnt(tokenizer):
    """A template whose prompt ends with a space, which merges with the answer's first letter."""
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}" \
                              "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"  # fmt: skip
    found = encode_messages([ONE[0], {"role": "assistant", "content": "the one"}], tokenizer, where="row 1")
    assert learnt(found, tokenizer) == [" the one<|endoftext|>"]
    prompt = prompt_tokens(ONE[:1], tokenizer)
    assert prompt != found.tokens[: len(prompt)].tolist()  # the merge did happen


def test_a_prompt_is_what_stands_before_the_answer(chatml):
    found = encode_messages(ONE, chatml, where="row 1")
    assert prompt_tokens(ONE[:1], chatml) == found.tokens[~found.trained][:-1].tolist()  # the line break ends the turn


def test_a_template_that_changes_the_past_is_refused(chatml):
    """As those do that drop earlier reasoning; only once the assistant answers is the user's turn shortened here."""
    chatml.chat_template = CHATML.replace("m['content'] +", "(m['content'] if loop.last else m['content'][:2]) +")
    with pytest.raises(InputError, match=r"row 3: .* \(message 2\) otherwise once .* \{% generation %\} marks"):
        encode_messages(ONE, chatml, where="row 3")
    chatml.chat_template = MARKED.replace("m['content'] +", "(m['content'] if loop.last else m['content'][:2]) +")
    assert learnt(encode_messages(ONE, chatml, where="row 3"), chatml) == ANSWERS[:1]  # its marks say what they mean


@pytest.mark.parametrize("weight", [0, 0.0, False])
@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_turn_of_weight_0_is_not_learnt(chatml, template, weight):
    chatml.chat_template = template
    silent = [{**m, "weight": weight} if i == 2 else m for i, m in enumerate(TWO)]
    assert learnt(encode_messages(silent, chatml, where="row 1"), chatml) == ANSWERS[1:]
    assert learnt(encode_messages(TWO, chatml, where="row 1", skip=1), chatml) == ANSWERS[1:]


CALLING = [
    {"role": "user", "content": "And 1 and 1?"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "Two."},
]
KNOWS_TOOLS = CHATML.replace("m['content'] +", "m['content'] + (m.tool_calls | tojson if m.tool_calls else '') +")


def test_tool_calls_are_learnt_where_the_template_shows_them_and_a_bad_row_elsewhere(chatml):
    with pytest.raises(BadRow, match="row 1, message 2: the chat template does not show its tool calls"):
        encode_messages(CALLING, chatml, where="row 1")
    chatml.chat_template = KNOWS_TOOLS
    first, second = learnt(encode_messages(CALLING, chatml, where="row 1"), chatml)
    assert '"name": "add"' in first
    assert second == "Two.<|im_end|>"


def test_tools_are_passed_to_the_template(chatml):
    chatml.chat_template = "{% if tools %}TOOLS {{ tools | tojson }}{% endif %}" + CHATML
    options = {"tools": [{"name": "add"}]}
    found = encode(Dialogue(ONE, options=options), chatml, where="row 1")
    assert chatml.decode(found.tokens).startswith('TOOLS [{"name": "add"}]<|im_start|>')
    assert learnt(found, chatml) == ANSWERS[:1]
    assert prompt_tokens(ONE[:1], chatml, options) == found.tokens[~found.trained][:-1].tolist()
    assert ignored_options(Dialogue(ONE, options=options), chatml) == []
    chatml.chat_template = CHATML
    assert ignored_options(Dialogue(ONE, options=options), chatml) == ["tools"]


def test_marks_in_a_comment_are_none(chatml):
    chatml.chat_template = "{# {% generation %} is\nnot used #}" + CHATML
    assert learnt(encode_messages(TWO, chatml, where="row 1"), chatml) == ANSWERS


def test_marks_in_a_branch_that_is_not_taken_make_a_bad_row(chatml):
    chatml.chat_template = MARKED.replace("m['role'] == 'assistant'", "m['role'] == 'assistant' and m.reasoning")
    with pytest.raises(BadRow, match=r"row 1: the chat template shows 0 ends of turns to learn .* for 1 turns"):
        encode_messages(ONE, chatml, where="row 1")


def test_the_end_of_a_turn_is_found_without_knowing_latin_letters():
    known = tokenizers.characters(["привет как дела четыре два"])
    notes = give_template(known, "plain")
    assert (known.eos_token, turn_end(known)) == ("<|endoftext|>", known.convert_tokens_to_ids("<|endoftext|>"))
    assert not any("EOS is now" in note for note in notes)
    give_template(known, "chatml")
    assert known.eos_token == "<|im_end|>"
    messages = [{"role": "user", "content": "привет"}, {"role": "assistant", "content": "дела"}]
    assert learnt(encode_messages(messages, known, where="row 1"), known) == ["дела<|im_end|>"]


def test_an_added_token_that_is_not_special_ends_a_turn_too(tokenizer):
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = CHATML
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) == "<|im_end|>"
    assert learnt(encode_messages(TWO, tokenizer, where="row 1"), tokenizer) == ANSWERS


def test_named_templates_without_a_default_are_listed(chatml):
    chatml.chat_template = {"tool_use": CHATML, "rag": CHATML}
    for find in (turn_end, lambda t: encode_messages(ONE, t, where="row 1")):
        with pytest.raises(InputError, match="chat templates named rag, tool_use and none named default"):
            find(chatml)
    assert give_template(chatml, "rag")[0] == "chat template: rag instead of the tokenizer's own"
    assert learnt(encode_messages(ONE, chatml, where="row 1"), chatml) == ANSWERS[:1]


def test_turns_must_end_with_a_special_token(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    with pytest.raises(InputError, match="does not end the assistant's turns with an end token"):
        encode_messages(ONE, tokenizer, where="row 1")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|unknown_to_it|>' }}{% endfor %}"
    with pytest.raises(InputError, match="does not end the assistant's turns with an end token"):
        encode_messages(ONE, tokenizer, where="row 1")


def test_what_a_template_refuses_is_said_with_its_reason(chatml):
    chatml.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    )
    assert encode_messages(ONE, chatml, where="row 1").trained.any()
    with pytest.raises(InputError, match="row 2: the chat template refuses it: no system here"):
        encode_messages(TWO, chatml, where="row 2")


def test_no_template(tokenizer):
    with pytest.raises(InputError, match="no chat template; give --chat-template"):
        encode_messages(ONE, tokenizer, where="row 1")


def test_a_text_that_spells_the_end_is_refused(chatml):
    messages = [{"role": "user", "content": "What does <|im_end|> do?"}, ONE[1]]
    with pytest.raises(InputError, match=r"row 4, message 1: it spells <\|im_end\|>"):
        encode_messages(messages, chatml, where="row 4")


@pytest.mark.parametrize(
    ("roles", "fault"),
    [
        ("user", "the last has to be the assistant"),
        ("assistant", "wanted user, found assistant"),
        ("system", "the last has to be the assistant"),
        ("user assistant user", "the last has to be the assistant"),
        ("user user assistant", "wanted assistant, found user"),
        ("user assistant assistant", "wanted user or tool, found assistant"),
        ("user system assistant", "wanted assistant, found system"),
        ("user tool assistant", "wanted assistant, found tool"),
        ("system system user assistant", "wanted user, found system"),
    ],
)
def test_roles_out_of_order(chatml, roles, fault):
    messages = [{"role": role, "content": "words"} for role in roles.split()]
    with pytest.raises(InputError, match=f"row 5: roles out of order .*{fault}"):
        encode_messages(messages, chatml, where="row 5")


def test_a_tool_may_speak_after_the_assistant(chatml):
    roles = ("system", "user", "assistant", "tool", "tool", "assistant", "user", "assistant")
    messages = [{"role": role, "content": f"{role} {i}"} for i, role in enumerate(roles)]
    found = encode_messages(messages, chatml, where="row 1")
    assert learnt(found, chatml) == [f"assistant {i}<|im_end|>" for i in (2, 5, 7)]


def test_a_completion_follows_its_prompt_as_one_text(tokenizer):
    found = encode_completion("What is", " that?", tokenizer, where="row 1")
    assert learnt(found, tokenizer) == [" that?<|endoftext|>"]
    assert found.tokens.tolist() == [*tokenizer("What is that?")["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(found.tokens[~found.trained]) == "<|endoftext|>What is"  # its begin token is the same


def test_a_completion_whose_first_letter_merges_with_the_prompt(tokenizer):
    found = encode_completion("this is ", "the one", tokenizer, where="row 1")
    assert learnt(found, tokenizer) == [" the one<|endoftext|>"]


def test_a_text_alone_is_all_learnt_and_brings_its_own_marks_if_it_likes(tokenizer):
    found = encode_completion("", "A text.", tokenizer, where="row 1")
    assert found.trained.tolist() == [False, *[True] * (len(found.tokens) - 1)]  # all but what nothing predicts
    again = encode_completion("", "<|endoftext|>A text.<|endoftext|>", tokenizer, where="row 1")
    assert again.tokens.tolist() == found.tokens.tolist()


def test_a_tokenizer_that_ends_texts_itself(tokenizer):
    from tokenizers import processors

    end = tokenizer.eos_token_id
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    found = encode_completion("What is", " that?", tokenizer, where="row 1")
    assert found.tokens.tolist().count(end) == 1
    assert learnt(found, tokenizer) == [" that?<|endoftext|>"]


def test_an_empty_completion_and_a_tokenizer_without_an_end(tokenizer):
    with pytest.raises(InputError, match="row 2: the completion is empty"):
        encode_completion("What?", "", tokenizer, where="row 2")
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        encode_completion("What?", "That.", tokenizer, where="row 2")
