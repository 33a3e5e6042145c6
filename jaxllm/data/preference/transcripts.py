"""Splitting two transcripts of one conversation into their common beginning, which is the prompt, and the answers."""

from __future__ import annotations

from jaxllm.data.chat.messages import empty
from jaxllm.data.chat.render import common_length
from jaxllm.data.report import BadRow

ASSISTANT = "\n\nAssistant:"
"""What begins the assistant's turns in transcripts without a prompt column, as Bai et al. 2022 published them."""


def split_transcripts(answers: list[str], where: str) -> tuple[str, list[str]]:
    """The prompt and the answers of two transcripts: up to the assistant's last turn in common, if turns are marked."""
    common = common_length(*answers)
    n = common
    if (mark := answers[0].rfind(ASSISTANT, 0, common)) >= 0:
        n = mark + len(ASSISTANT)
    else:
        while n and not answers[0][n - 1].isspace():
            n -= 1  # to the beginning of a word, and of the space that tokenizers count to it
        n -= answers[0][n - 1 : n] == " "
    if not n:
        raise BadRow(
            f"{where}: chosen and rejected have no beginning in common to be the prompt; mend the row",
            "chosen and rejected have no prompt in common",
        )
    rests = [answer[n:] for answer in answers]
    for column, rest in zip(("chosen", "rejected"), rests, strict=True):
        if mark >= 0 and not rest.strip():
            raise empty(column, where)
    if common >= min(map(len, (answer.rstrip() for answer in answers))):
        raise BadRow(
            f"{where}: one of chosen and rejected is the beginning of the other; mend the row",
            "one answer is the beginning of the other",
        )
    return answers[0][:n], rests
