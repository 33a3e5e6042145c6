"""Generating the embedded corpus of classified texts: what customers write to a shop, with what each text wants.

Goods and names, and some sentences of every class, are found in one split alone, so that dev and test have
what train has not. Deterministic: goods and names are split by hash.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.data.builtin import tables
from jaxllm.data.builtin.ner import split_of

SIZES: Mapping[str, int] = {"train": 2400, "dev": 400, "test": 400}
"""The number of texts in each split."""

DEMO: tuple[str, ...] = (
    "Hello, the drill I bought last week has stopped working, and I want my money back.",
    "Could you tell me whether the Zolara X90 comes in green?",
    "Please send four of the small lamps to my office in Enschede.",
    "What a lovely shop, your staff could not have been kinder!",
    "I will be abroad on Tuesday, so please bring the parcel on Friday instead.",
)
"""Texts that follow no sentence of the corpus, to try a trained model on."""

SENTENCES: dict[str, tuple[str, ...]] = {
    "complaint": (
        "The {good} {item} [that I bought|you sold me] [has stopped working|does not work] [again|already].",
        "My {item} [is broken|arrived broken], and [nobody|no one] answers [the phone|my letters].",
        "The {item} you sent is [the wrong colour|much too small|not what I ordered].",
        "This is the {order} time that the {item} [fails|breaks], which is [not good enough|very disappointing].",
        "[I am not happy|I am very disappointed] with the {item}, [it is useless|it never worked].",
        "The {item} [makes a terrible noise|smells of smoke|gets far too hot].",
        "I want [my money back|a refund] for the {item}, which [broke|failed] after {number} days.",
        "Your driver [was rude|threw the parcel over the fence], and the {item} is [damaged|in pieces].",
        "[I am very disappointed|I am not happy]: the {item} [broke|failed] [again|already].",
        "The {item} arrived [damaged|in pieces], and [no one|nobody] at your shop [answers|cares].",
        "The {item} does not [work|start] any more after {number} days.",
        "Nobody answers my letters about the {item}.",
        "It is [useless|broken], I want [a refund|my money back] for this {item}.",
        "It took {number} letters until [someone|your staff] looked at my {item}, and it still fails.",
        "The {item} is nice, but it [broke|failed] on {weekday}.",
    ),
    "order": (
        "[Please send|I would like to order] {number} {item}s [to my office|to {town}].",
        "[I would like|I want] to buy a {good} {item}, [please|if you have one].",
        "Please add {number} {item}s to my [order|basket].",
        "We need {number} more {item}s for [the school|our office|the clinic].",
        "Can I [order|get] a {item} [for my {kin}|as a present]?",
        "I will take the {good} {item} [and {number} boxes|with the case].",
        "[Send me|Please send me] the {item} from [page {number}|the catalogue].",
        "[I would like to order|Please send] the {good} {item} [as a present|for my {kin}].",
        "We want to [buy|order] {number} {item}s for [our office|the school].",
        "[Do you have|Is there] a {item} left? Then [send me|please send] one to {town}.",
        "The {item} is the best, send me {number} more.",
        "Please [add|send] a {item}, I would like [one|it] as a present.",
        "My {kin} needs a {item}, [so I take one|I will take the {good} one].",
        "{number} {item}s, please, to be [sent|delivered] to our office.",
    ),
    "question": (
        "[Do you know|Could you tell me] whether the {item} [comes in green|works abroad]?",
        "[How much|What] does the {good} {item} cost?",
        "How long does the battery of the {item} last?",
        "Is the {item} [cheaper than|as good as] the {other}?",
        "[When|At what time] does your shop in {town} [open|close]?",
        "Which {item} [would you recommend|is best] for a {job}?",
        "Does the {item} come with a [case|battery]?",
        "[Could you tell me|Do you know] [how much|what] the {item} costs?",
        "Which is [cheaper|best], the {item} or the {other}?",
        "Will the battery of the {item} do for a {job}?",
        "Can the {item} be used [abroad|in the rain]?",
        "At what time do you open, and does the {item} work abroad?",
        "[My {kin} asks|I wonder] whether the {item} is [any good|worth it].",
        "[Who|Which of you] can tell me what a {good} {item} costs?",
    ),
    "delivery": (
        "Please [bring|deliver] the {item} on {weekday} [instead|and not before].",
        "[I will be away|Nobody is at home] on {weekday}, [leave|please leave] the {item} with my {kin}.",
        "[Where is|I am still waiting for] the parcel with my {item}?",
        "My address has changed, please [bring|deliver] the {item} to {town}.",
        "The driver can leave the parcel [at the back door|with the neighbours].",
        "Can you deliver the {item} [before|after] {weekday}?",
        "I was told that the {item} would [come|arrive] on {weekday}, [where is it|is it on its way]?",
        "[Please leave|Can you leave] the parcel with my {kin}, I will be away on {weekday}.",
        "I am still waiting for the parcel, [is it on its way|where is it]?",
        "Nobody will be [at home|in] before {weekday}, so [come|bring it] later.",
        "When will the driver be here with my {item}?",
        "My address has changed: deliver the {item} [after|before] {weekday}, please.",
        "The parcel should go to {town} and not to my {kin}.",
        "Was the parcel sent [at last|on {weekday}], and when will it [come|arrive]?",
    ),
    "praise": (
        "[Thank you|Many thanks] for the {item}, it [works perfectly|is wonderful].",
        "My {kin} loves the {good} {item}, [what a lovely shop|you made us very happy].",
        "The best {item} I [ever|have ever] had!",
        "Your [staff|people] in {town} [were so kind|could not have been kinder].",
        "[I am delighted|We are very happy] with the {item}.",
        "What a wonderful {item}, [I will tell all my friends|well done]!",
        "The {item} [came quickly|was well packed] and [is perfect|works perfectly].",
        "[Well done|Many thanks], the {item} is [perfect|wonderful].",
        "We are [delighted|so happy] with your staff, [thank you|well done]!",
        "I never had [such a good|a better] {item}.",
        "My {kin} is so happy and [cannot stop talking about|would not give away] the {item}.",
        "What a lovely {item}, my {kin} [loves it|is delighted].",
        "It was broken, and your staff in {town} [gave me a new one|made it work] at once: thank you!",
        "[Thank you|Well done], I will buy the next {item} from you too.",
    ),
}
"""What a text of each class says. The last six are of dev (three) and test (three) alone: one that train has the words
of, and two that need more."""

HELD_OUT = 3

BEFORE = (
    "Hello,",
    "Good morning.",
    "Dear all,",
    "Hello {given},",
    "My name is {given} {surname}.",
    "A word from {town}.",
)
AFTER = (
    "Yours, {given} {surname}.", "My number is {digits}.", "I bought a {other} from you in {month}.",
    "It is for a {job}.", "See you on {weekday}.", "{given} from your shop knows me.",
)  # fmt: skip
"""Sentences of no class, which any text may have around it."""

QUOTES = (
    'In {month} I wrote: "{quoted}" This is another matter.', 'My {kin} wrote to you: "{quoted}" But I write this:',
    'You have my letter that says "{quoted}", forget it.',
)  # fmt: skip
QUOTED = 0.3
"""The probability that a text begins with a quotation of another class, which does not count."""

_GOODS = (
    "phone", "camera", "laptop", "printer", "speaker", "scooter", "drill", "clock", "tablet", "router", "blender",
    "headset", "lamp", "kettle", "toaster", "fan", "heater", "bicycle", "helmet", "tent", "lantern", "radio",
    "keyboard", "mixer", "iron", "vacuum", "mirror", "chair", "desk", "shelf", "carpet", "pillow", "blanket",
    "jacket", "boot", "glove", "scarf", "backpack", "suitcase", "umbrella", "telescope", "guitar", "violin", "drum",
    "flute", "easel", "saddle", "kayak", "ladder", "hammer",
)  # fmt: skip
_SLOTS: dict[str, Sequence[str]] = {
    "good": tables.WORDS["good"], "number": tables.WORDS["number"], "kin": tables.WORDS["kin"],
    "job": tables.WORDS["job"], "weekday": tables.PARTS["weekday"], "month": tables.PARTS["month"],
    "order": ("second", "third", "fourth"),
}  # fmt: skip
_CHOICE, _SLOT = re.compile(r"\[([^\]]*)\]"), re.compile(r"\{(\w+)\}")


def requests(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Splits `train`, `dev` and `test` of rows {"text": ..., "label": a name of SENTENCES}.

    Another seed divides goods and names differently. The same seed gives the same rows on any machine.
    """
    return {split: _rows(split, size, seed) for split, size in SIZES.items()}


def documents() -> dict[str, dict[str, str]]:
    """Splits `train` and `dev` of the texts by name ("requests/12"), for masked language models: their grammar is small
    enough to be learned in minutes."""
    rows = requests()
    return {split: {f"requests/{i}": row["text"] for i, row in enumerate(rows[split])} for split in ("train", "dev")}


def _rows(split: str, size: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(f"{seed}/{split}")
    own = {
        name: [x for x in words if split_of(x, seed) == split]
        for name, words in (
            ("item", _GOODS), ("town", tables.NAMES["town"]), ("given", tables.NAMES["first"]),
            ("surname", tables.NAMES["last"]),
        )
    }  # fmt: skip
    slots = {**_SLOTS, **own, "other": own["item"]}
    rows: dict[str, str] = {}
    while len(rows) < size:
        label = rng.choice(tuple(SENTENCES))
        core = rng.choice(_sentences(label, split))
        parts = [rng.choice(BEFORE)] * (rng.random() < 0.4) + [core] + [rng.choice(AFTER)] * (rng.random() < 0.4)
        if rng.random() < QUOTED:
            other = rng.choice([name for name in SENTENCES if name != label])
            parts.insert(0, rng.choice(QUOTES).replace("{quoted}", rng.choice(_sentences(other, "train"))))
        rows.setdefault(_fill(" ".join(parts), slots, rng), label)
    return [{"text": text, "label": label} for text, label in rows.items()]


def _sentences(label: str, split: str) -> Sequence[str]:
    """The sentences of a class that a split has."""
    parts = {
        "train": slice(None, -2 * HELD_OUT),
        "dev": slice(-2 * HELD_OUT, -HELD_OUT),
        "test": slice(-HELD_OUT, None),
    }
    return SENTENCES[label][parts[split]]


def _fill(text: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)

    def draw(match: re.Match[str]) -> str:
        return str(rng.randint(1000, 99_999)) if match[1] == "digits" else rng.choice(slots[match[1]])

    return _SLOT.sub(draw, text)
