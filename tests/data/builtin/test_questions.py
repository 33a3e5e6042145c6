"""The embedded questions: from docstrings, held out by module."""

import collections

import pytest

from jaxllm.data.builtin import questions, stdlib
from jaxllm.types import InputError


def test_there_are_enough_of_them_and_none_twice(asked):
    assert len(asked["train"]) > 2000
    assert len(asked["dev"]) > 100
    for column in ("question", "answer"):
        values = [row[column] for rows in asked.values() for row in rows]
        assert len(set(values)) == len(values)
    for row in asked["dev"]:
        assert questions.SHORTEST <= len(row["answer"]) <= questions.LONGEST
        assert "\n" not in row["answer"]


def test_questions_are_held_out_with_their_modules(asked):
    def modules(split):
        return {row["question"].rpartition(" of ")[2].removesuffix(" do?").removesuffix("?") for row in asked[split]}

    assert not modules("train") & modules("dev")
    held_out = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
                for name in stdlib.documents()["dev"]}  # fmt: skip
    assert modules("dev") <= held_out


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library of two modules, of which one is held out."""
    names = [f"module{i}" for i in range(100)]
    held_out = next(name for name in names if stdlib.split_of(f"{name}.py") == "dev")
    known = next(name for name in names if stdlib.split_of(f"{name}.py") == "train")
    folder = tmp_path_factory.mktemp("library")
    (folder / f"{held_out}.py").write_text(
        'def held(a, *, b=2):\n    """Holds what is held\n    out.\n\n    More."""\n'
    )
    (folder / f"{known}.py").write_text(
        'class Box:\n    """What things are put into."""\n    def put(self, x, /, y):\n'
        '        """Puts a thing in, and another beside it."""\n    def _hide(self):\n'
        '        """What is nobody else\'s concern."""\n'
        'async def wait():\n    """Waits for what is to come."""\n'
        'def short():\n    """Too short."""\ndef again():\n    """Holds what is held out."""\n'
    )
    (folder / "broken.py").write_text("def (:\n")
    return folder, known, held_out


def test_what_is_asked_and_answered(library):
    folder, known, held_out = library
    assert questions.sft(folder) == {
        "train": [
            {"question": f"What is the class Box of {known}?", "answer": "What things are put into."},
            {
                "question": f"What does Box.put(x, y) of {known} do?",
                "answer": "Puts a thing in, and another beside it.",
            },
            {"question": f"What does wait() of {known} do?", "answer": "Waits for what is to come."},
        ],
        "dev": [{"question": f"What does held(a, b) of {held_out} do?", "answer": "Holds what is held out."}],
    }


def test_a_function_meets_a_class_and_each_is_asked_about(asked):
    for rows in asked.values():
        answers = {row["question"]: row["answer"] for row in rows}
        found = [*questions._paired(rows)]
        texts = [{column: row[column][0]["content"] for column in row} for row in found]
        assert [row["prompt"] for row in found] == [[{"role": "user", "content": t["prompt"]}] for t in texts]
        assert {row[side][0]["role"] for row in found for side in ("chosen", "rejected")} == {"assistant"}
        for text in texts:
            assert text["chosen"] == answers[text["prompt"]] != text["rejected"]
        for function, other in zip(texts[::2], texts[1::2], strict=True):
            assert (function["chosen"], function["rejected"]) == (other["rejected"], other["chosen"])
            assert function["prompt"].startswith("What does")
            assert other["prompt"].startswith("What is the class")
        assert {text["prompt"] for text in texts} == set(answers)
        times = collections.Counter(text["prompt"] for text in texts)
        assert {times[question] for question in answers if question.startswith("What does")} == {1}
        classes = {times[question] for question in answers if question.startswith("What is")}
        assert max(classes) - min(classes) <= 1


def test_preferences_are_made_of_the_same_questions(library):
    folder = library[0]
    found = questions.preference(folder)
    assert found == questions.preference(folder)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 4, "dev": 0}  # dev has no class


def test_no_library(tmp_path):
    with pytest.raises(InputError, match="no standard library"):
        questions.sft(tmp_path)
