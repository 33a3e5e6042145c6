"""Generating the embedded NER corpus, tagged English sentences from templates and names, and training its tokenizer.

Every template, name and date belongs to one split alone, so dev and test hold only unseen names and sentences. The
splits share the language around them: verbs, prepositions, months, titles, suffixes of companies. The corpus is
deterministic: splits are chosen by hash, names by seed.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jaxllm.data.builtin import tables
from jaxllm.data.kept import kept

if TYPE_CHECKING:
    from transformers import BertTokenizer

SIZES: Mapping[str, int] = {"train": 9000, "dev": 600, "test": 600}
"""The number of sentences in each split."""

NER_DEMO: tuple[str, ...] = (
    "My name is Maarten and I live in Enschede.",
    "Nkechi Thorvald left Brightmoor Labs in April 2031 to teach at Groningen University.",
    "Does the Zolara X90 cost more than the Kelvino 4 Pro?",
    "Nothing much happened at the library, so the driver went home.",
)
"""Raw sentences that follow no template and hold no name of the corpus, to try a trained model on."""

HELD_OUT = 12
"""The percentage of templates, names and dates in dev, and in test."""

COINED = 0.5
"""The probability that a name is coined."""

CHOICE = re.compile(r"\[([^\]]*)\]")
SLOT = re.compile(r"\{(\w+)\}")
# Titles and initials keep their full stop; the possessive, and any other mark, is a token of its own.
_TOKEN = re.compile(r"[A-Z]\.(?= )|(?:Dr|Mr|Mrs|Ms|Prof)\.|'s\b|O'\w+|[$]?\w+(?:[-.,]\w+)*|\S")
# What keeps its capital inside a sentence.
_TITLES = ("I ", "English ", "Dr.", "Mr.", "Mrs.", "Ms.", "Prof.", "Captain ", "Judge ", "President ")


def split_of(text: str, seed: int = 0) -> str:
    """The split that a name or a date belongs to: `train`, `dev` or `test`."""
    bucket = _hash(text, seed) % 100
    return "dev" if bucket < HELD_OUT else "test" if bucket < 2 * HELD_OUT else "train"


def templates(seed: int = 0) -> dict[str, tuple[str, ...]]:
    """The templates of each split.

    In the order of a hash, a template is held out if every clue in it also occurs in a template of train. Clues are its
    words and, for each slot, the words next to it ("lives in {place}" may be held out if train has "born in {place}").
    A model trained from scratch knows only the words it has read; the held-out sentences test whether it finds names
    by their context in a new sentence.
    """
    clues = {template: _clues(template) for template in tables.TEMPLATES}
    left = Counter(clue for found in clues.values() for clue in found)
    most = len(tables.TEMPLATES) * HELD_OUT // 100
    splits: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for template in sorted(tables.TEMPLATES, key=lambda template: _hash(template, seed)):
        split = min(("dev", "test"), key=lambda name: len(splits[name]))
        if len(splits[split]) == most or any(left[clue] < 2 for clue in clues[template]):
            split = "train"
        else:
            left.subtract(clues[template])
        splits[split].append(template)
    return {split: tuple(found) for split, found in splits.items()}


def ner(seed: int = 0) -> dict[str, list[dict[str, list[str]]]]:
    """Splits `train`, `dev` and `test` of rows {"tokens": words, "ner_tags": IOB2 tags such as "B-person"}.

    Labels: person, organisation, place, product, date. Another seed divides the splits differently. The same seed gives
    the same rows on any machine.
    """
    divided = templates(seed)
    return {split: _sentences(divided[split], split, size, seed) for split, size in SIZES.items()}


def _sentences(templates: Sequence[str], split: str, size: int, seed: int) -> list[dict[str, list[str]]]:
    """`size` distinct sentences; the templates take turns, and a repeated sentence is skipped."""
    rng = random.Random(f"{seed}/{split}")
    names = {name: [x for x in entries if split_of(x, seed) == split] for name, entries in tables.NAMES.items()}
    writer = _Writer({**tables.PARTS, **tables.WORDS, **names}, templates, split, seed, rng)
    rows: dict[tuple[str, ...], list[str]] = {}
    while len(rows) < size:
        for template in rng.sample(templates, len(templates)):
            tokens, tags = writer.sentence(template)
            if len(rows) < size:
                rows.setdefault(tuple(tokens), tags)
    items = list(rows.items())
    rng.shuffle(items)
    return [{"tokens": list(tokens), "ner_tags": tags} for tokens, tags in items]


class _Writer:
    """Fills templates with the names of one split."""

    def __init__(
        self, words: Mapping[str, Sequence[str]], templates: Sequence[str], split: str, seed: int, rng: random.Random
    ):
        self.words, self.split, self.seed, self.rng = words, split, seed, rng
        self.statements = [template for template in templates if _is_statement(template)]

    def sentence(self, template: str) -> tuple[list[str], list[str]]:
        """The tokens and tags of a random sentence from the template."""
        tokens: list[str] = []
        tags: list[str] = []
        # re.split with a group alternates text and slot names.
        for i, part in enumerate(SLOT.split(self._extend(template))):
            label = tables.LABELS[part] if i % 2 else None
            words = _TOKEN.findall(self._entity(part) if label else part)
            tokens += words
            tags += [f"{'I' if j else 'B'}-{label}" if label else "O" for j in range(len(words))]
        return tokens, tags

    def _extend(self, template: str) -> str:
        """Adds an opener, a second statement or a tail to some statements: names then occur anywhere in a sentence."""
        text, rng = self._words(template), self.rng
        if _is_statement(template):
            if rng.random() < 0.2:
                text = text[:-1] + rng.choice(tables.JOINTS) + " " + _inner(self._words(rng.choice(self.statements)))
            if rng.random() < 0.3:
                text = self._words(rng.choice(tables.OPENERS)) + " " + _inner(text)
            if rng.random() < 0.2:
                text = text[:-1] + self._words(rng.choice(tables.TAILS))
        return text

    def _words(self, text: str) -> str:
        """Draws choices and plain words; slots for names are kept."""
        return SLOT.sub(
            lambda match: match[0] if match[1] in tables.LABELS else self._fill(match[0]), choose(text, self.rng)
        )

    def _entity(self, slot: str) -> str:
        while True:
            text = self._fill(self.rng.choice(tables.FORMS[slot]))
            # The parts of dates are shared by all splits, so each whole date belongs to one split.
            if tables.LABELS[slot] != "date" or split_of(text, self.seed) == self.split:
                return text

    def _fill(self, text: str) -> str:
        return SLOT.sub(lambda match: self._draw(match[1]), choose(text, self.rng))

    def _draw(self, table: str) -> str:
        while table in tables.NAMES and table != "field" and self.rng.random() < COINED:
            name = "".join(self.rng.choice(part) for part in tables.SYLLABLES)
            if split_of(name, self.seed) == self.split:
                return name
        return self.rng.choice(self.words[table])


def choose(text: str, rng: random.Random) -> str:
    """One of the alternatives in each pair of brackets, "[a|b]"."""
    return CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)


def _hash(text: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:8], "big")


def _clues(template: str) -> set[str]:
    """The words of a template, and its slots by entity type, each with the word before and the word after it."""
    found = set()
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(CHOICE.split(template))]
    for variant in itertools.product(*choices):
        words = ["^"]
        for i, part in enumerate(SLOT.split("".join(variant))):
            words += [f"{{{tables.LABELS.get(part, part)}}}"] if i % 2 else _TOKEN.findall(part)
        words.append("$")
        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            found |= {f"{before} {word}", f"{word} {after}"} if word[1:-1] in tables.LABELS.values() else {word}
    return found


def _is_statement(template: str) -> bool:
    return (
        template.endswith(".") and not template.startswith(tables.ALONE) and not any(mark in template for mark in ':;"')
    )


def _inner(text: str) -> str:
    """A statement with the lower-case initial that it has inside a sentence."""
    return text if text.startswith(("{", *_TITLES)) else text[0].lower() + text[1:]


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = string.ascii_letters + string.digits + "".join(map(chr, range(0xC0, 0x180)))
_PIECE = re.compile(r"\w+|[^\w\s]")
_MARKS = string.punctuation + "‘’“”–—…€£§°·•"


def wordpiece(texts: Iterable[str], vocab_size: int = 2048, max_length: int = 128) -> BertTokenizer:
    """Trains a cased BERT tokenizer on `texts` (raw text: tagged words joined by spaces).

    vocab_size: the most entries, with special tokens and single characters. max_length: `model_max_length`, in tokens.
    A capitalised word counts only once, so that known names are cut into the same small pieces as unseen names.
    Punctuation and Latin letters are always in the vocabulary, so that no European name becomes [UNK]. Training twice
    on the same texts gives the same vocabulary.
    """
    from transformers import BertTokenizer

    counts = Counter(word for text in texts for word in _PIECE.findall(text))
    key = [version("tokenizers"), vocab_size, _SPECIAL, _LETTERS, _MARKS, counts]
    found = kept("tokenizers", key, lambda: _train(counts, vocab_size))
    return BertTokenizer(vocab=found, do_lower_case=False, model_max_length=max_length)


def _train(counts: Mapping[str, int], vocab_size: int) -> dict[str, int]:
    """The vocabulary of `wordpiece`, in the order of its numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    # The trainer numbers word-inner characters in the order of a hash table, and breaks ties by those numbers. As
    # specials they are numbered first and in order; the finished tokenizer takes over the vocabulary alone.
    alphabet = [*_LETTERS, *_MARKS, *(f"##{letter}" for letter in _LETTERS)]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer: Any = trainers.WordPieceTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=[*_SPECIAL, *alphabet], show_progress=False
    )
    pieces.train_from_iterator(
        (" ".join([word] * (1 if word[0].isupper() else n)) for word, n in counts.items()), trainer
    )
    return dict(sorted(pieces.get_vocab().items(), key=lambda entry: entry[1]))
