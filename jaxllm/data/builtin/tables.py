"""The names, words and sentence templates of the embedded corpora, read from the text files beside this module."""

from __future__ import annotations

import re
from importlib import resources

Table = tuple[str, ...]


def sections(file: str) -> dict[str, dict[str, list[str]]]:
    """The lines below each `[group.table]` heading, by group and table; blank lines and `#` comments are left out."""
    groups: dict[str, dict[str, list[str]]] = {}
    for line in resources.files(__package__).joinpath(file).read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\.(\w+)\]", line):
            lines = groups.setdefault(heading[1], {}).setdefault(heading[2], [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return groups


def words(lines: list[str]) -> Table:
    """The words of some lines; "a b + c d" stands for ac ad bc bd, and an underscore for a space."""
    found: list[str] = []
    for line in lines:
        heads, plus, tails = line.partition(" + ")
        found += (head + tail for head in heads.split() for tail in (tails.split() if plus else [""]))
    return tuple(word.replace("_", " ") for word in found)


def _forms(lines: list[str]) -> Table:
    """The forms of a slot; "form * 3" is repeated three times, which makes it three times as likely."""
    counted = (line.partition(" * ") for line in lines)
    return tuple(form for form, _, count in counted for _ in range(int(count or 1)))


_GAZETTEERS = {
    group: {name: words(lines) for name, lines in tables.items()}
    for group, tables in sections("gazetteers.txt").items()
}
_FORMS, _TEMPLATES = sections("forms.txt"), sections("templates.txt")
_STATEMENTS = {
    name: tuple(f" {line}" if line[0].isalpha() and name in ("joints", "tails") else line for line in lines)
    for name, lines in _TEMPLATES["statements"].items()
}

NAMES: dict[str, Table] = _GAZETTEERS["names"]
"""Held out: an entry, and so each word that it puts in a sentence, is found in one split alone."""

SYLLABLES: tuple[Table, ...] = tuple(_GAZETTEERS["syllables"].values())
"""The beginnings, middles and ends that names are coined from."""

PARTS: dict[str, Table] = _GAZETTEERS["parts"]
"""What completes names and dates; shared by all splits."""

WORDS: dict[str, Table] = _GAZETTEERS["words"]
"""Plain words, shared by all splits."""

FORMS: dict[str, Table] = {slot: _forms(lines) for slots in _FORMS.values() for slot, lines in slots.items()}
"""How a slot is filled."""

LABELS: dict[str, str] = {slot: label for label, slots in _FORMS.items() for slot in slots}
"""The entity type of each slot."""

TEMPLATES: Table = tuple(line for lines in _TEMPLATES["templates"].values() for line in lines)
OPENERS, JOINTS, TAILS = (_STATEMENTS[name] for name in ("openers", "joints", "tails"))
"""What a statement may begin with, be joined by and end in; shared by all splits."""

ALONE: Table = _STATEMENTS["alone"]
"""What a template begins with that gets none of these."""
