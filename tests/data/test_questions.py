"""The embedded questions: from docstrings, held out by module."""

import pytest

from jaxllm.data import questions, stdlib
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


def test_rejected_answers_are_other_questions(asked):
    found = {split: [*questions._paired(rows)] for split, rows in asked.items()}
    for split, rows in found.items():
        answers = {row["question"]: row["answer"] for row in asked[split]}
        assert [row["prompt"][0]["content"] for row in rows] == list(answers)
        for row in rows:
            question = row["prompt"][0]["content"]
            assert row["prompt"] == [{"role": "user", "content": question}]
            assert row["chosen"] == [{"role": "assistant", "content": answers[question]}]
            assert row["rejected"][0]["content"] != answers[question]
        assert sorted(row["rejected"][0]["content"] for row in rows) == sorted(answers.values())


def test_preferences_are_made_of_the_same_questions(library):
    folder = library[0]
    found = questions.preference(folder)
    assert found == questions.preference(folder)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 3, "dev": 0}  # one alone has no other


def test_no_library(tmp_path):
    with pytest.raises(InputError, match="no standard library"):
        questions.sft(tmp_path)
