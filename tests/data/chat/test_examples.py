"""Dialogues as shifted examples within a length, and the count of what was cut."""

import numpy as np
import pytest

from jaxllm.data.chat.encode import Encoded, encode, encoding
from jaxllm.data.chat.examples import example, examples
from jaxllm.data.chat.rows import Dialogue
from jaxllm.data.report import Report
from jaxllm.types import InputError


def where(i):
    return f"data.jsonl, line {i + 1}"


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    """Encodings by the test's own hand: a prompt of "p" tokens, a completion of "c" tokens, the end being one."""

    def encoded(dialogue, tokenizer, *, where):
        if dialogue.messages:
            return (yield from encoding(dialogue, tokenizer, where=where))
        yield []
        p, c = len(dialogue.prompt), len(dialogue.completion)
        return Encoded(np.arange(100, 100 + p + c, dtype=np.int32), np.arange(p + c) >= p)

    monkeypatch.setattr("jaxllm.data.chat.examples.encoding", encoded)


def one(p, c, **options):
    report = Report()
    (found,) = examples([Dialogue(prompt="p" * p, completion="c" * c)], None, 8, where=where, report=report, **options)
    return found, report


def test_targets_are_the_next_tokens_and_weights_are_the_answers():
    found, report = one(3, 2)
    assert found.tokens.tolist() == [100, 101, 102, 103]
    assert found.targets.tolist() == [101, 102, 103, 104]
    assert found.weights.tolist() == [0, 0, 1, 1]
    assert found.weights.dtype == np.float32
    assert (report.kept, report.dropped, report.cut) == (1, {}, {})
    assert one(3, 2, prompts=True)[0].weights.tolist() == [1, 1, 1, 1]


def test_what_follows_the_last_answer_is_left_away():
    encoded = Encoded(np.arange(6, dtype=np.int32), np.array([0, 1, 0, 1, 0, 0], bool))
    assert example(encoded).targets.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("p", "c", "cut", "first", "length", "learnt", "counted"),
    [
        (3, 5, "answer", 100, 8, 5, {}),
        (3, 6, "answer", 100, 8, 5, {"answers": 1}),
        (0, 9, "answer", 100, 8, 8, {"texts": 1}),
        (1, 9, "prompt", 100, 8, 7, {"texts": 1}),
        (5, 5, "prompt", 102, 8, 5, {"prompts": 1}),
        (9, 2, "prompt", 103, 8, 2, {"prompts": 1}),
        (4, 9, "prompt", 103, 8, 7, {"prompts": 1, "answers": 1}),
    ],
)
def test_a_row_over_the_length_is_cut_and_counted(p, c, cut, first, length, learnt, counted):
    found, report = one(p, c, cut=cut)
    assert found.tokens[0] == first
    assert len(found.tokens) == length - 1
    assert found.weights.sum() == min(learnt, length - 1)
    assert report.cut == counted
    assert report.dropped == {}


def test_rows_that_are_left_out_are_named():
    sizes = [(3, 2), (8, 2), (3, 9), (20, 1)]
    rows = [Dialogue(prompt="p" * p, completion="c" * c) for p, c in sizes]
    report = Report()
    assert len(examples(rows, None, 8, where=where, report=report)) == 2
    assert report.dropped == {"the prompt fills --max-length 8": ["data.jsonl, line 2", "data.jsonl, line 4"]}
    assert report.lines() == ["2 left out, the prompt fills --max-length 8: data.jsonl, line 2, line 4",
                              "cut to --max-length: 1 answers"]  # fmt: skip
    report = Report()
    assert len(examples(rows, None, 8, where=where, report=report, cut="drop")) == 1
    assert report.dropped == {"over --max-length 8": [where(1), where(2), where(3)]}
    assert report.kept == 1


def test_nothing_left_is_an_error_and_so_is_nothing_to_learn():
    with pytest.raises(InputError, match="no row is left to train on: 1 left out, the prompt fills --max-length 8"):
        one(9, 1)
    with pytest.raises(InputError, match=r"data\.jsonl, line 1: it has no token to learn"):
        one(0, 1)


def test_a_long_conversation_loses_its_last_turns(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    messages = [{"role": role, "content": "one two three"} for role in ("user", "assistant") * 3]
    whole = encode(Dialogue(messages), tokenizer, where="")
    turn = len(whole.tokens) // 6
    report = Report()
    (found,) = examples([Dialogue(messages)], tokenizer, 3 * turn, where=where, report=report)
    assert found.tokens.tolist() == whole.tokens[: 2 * turn - 1].tolist()  # the third turn is a prompt without answer
    assert report.cut == {"answers": 1}


def test_a_template_at_fault_is_not_said_of_the_rows(tokenizer):
    tokenizer.chat_template = "{% for m in messages"
    messages = [{"role": role, "content": "one"} for role in ("user", "assistant")]
    with pytest.raises(InputError, match=r"^the chat template cannot show a question and its answer"):
        examples([Dialogue(messages)] * 3, tokenizer, 99, where=where, report=Report())


def test_rows_that_a_template_refuses_are_left_out_while_others_pass(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{{ m['content'] + eos_token }}{% endfor %}"
    )
    messages = [{"role": role, "content": "one"} for role in ("user", "assistant")]
    refused = Dialogue([{"role": "system", "content": "one"}, *messages])
    report = Report()
    assert len(examples([Dialogue(messages)] * 19 + [refused], tokenizer, 99, where=where, report=report)) == 19
    assert report.dropped == {"the chat template refuses it: no system here": [where(19)]}


def test_columns_that_the_template_does_not_show_are_counted(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    messages = [{"role": role, "content": "one"} for role in ("user", "assistant")]
    report = Report()
    examples([Dialogue(messages, options={"tools": [{"name": "look"}]})] * 2, tokenizer, 99, where=where, report=report)
    assert report.lines() == ["the chat template does not show tools (2 rows)"]
