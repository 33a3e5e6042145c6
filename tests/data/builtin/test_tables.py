"""The tables of the embedded NER corpus, as its text files say."""

import hashlib
import json

from jaxllm.data.builtin import tables


def test_families_underscores_and_weights_are_expanded():
    towns = tables.NAMES["town"]
    assert towns[:2] == ("Aarhus", "Abuja")
    assert towns[-4:] == ("Villecourt", "Villefontaine", "Villemer", "Villerive")
    assert {"Ashby", "Whitwick", "Grünheim"} < set(towns)
    assert "O'Brien" in tables.NAMES["last"]
    assert [len(part) for part in tables.SYLLABLES] == [63, 85, 31]
    assert tables.WORDS["who"][3:5] == ("Someone", "No one")
    assert tables.PARTS["dd"][:2] == ("01", "02")
    assert tables.FORMS["person"].count("{first} {last}") == 14
    assert tables.FORMS["past"] == (
        "last [{weekday}|{month}|{season}]",
        "last {weekday} [morning|afternoon|evening|night]",
        "late last {month}",
        "early last {season}",
    )


def test_joints_and_tails_are_set_off_by_a_space_and_templates_are_as_written():
    assert tables.JOINTS == (", and", ", but", " because", ", while", ", so", " and", "; later")
    assert (tables.TAILS[0], tables.TAILS[4], tables.TAILS[-1]) == (", she said.", " again.", "!")
    assert tables.OPENERS[:2] == ("Later,", "Then")
    assert len(tables.TEMPLATES) == len(set(tables.TEMPLATES)) == 667
    assert tables.TEMPLATES[0] == "{person} [joined|left|returned to] {org} as [a|the new] {job} in {time}."
    assert {line[0] for line in tables.TEMPLATES}.isdisjoint("#\t ")


def test_every_slot_has_a_table_and_every_label_its_forms():
    slots = {"person", "surname", "given", "org", "inst", "team", "place", "city", "land", "river", "peak", "street",
             "product", "day", "time", "past", "future"}  # fmt: skip
    assert tables.LABELS.keys() == tables.FORMS.keys() == slots
    assert (tables.LABELS["given"], tables.LABELS["team"], tables.LABELS["past"]) == ("person", "organisation", "date")


def test_the_tables_have_not_changed_unawares():
    """Scores and numbers in the documentation are of this corpus: who changes it on purpose changes this hash too."""
    names = ["NAMES", "SYLLABLES", "PARTS", "WORDS", "FORMS", "LABELS", "OPENERS", "JOINTS", "TAILS", "TEMPLATES"]
    text = json.dumps([getattr(tables, name) for name in names])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6420f2610b691ddc"
