"""Columns of words and tags: which hold them, and what is no word."""

import pytest

from jaxllm.data.tagging.columns import looks_like_columns, read_columns
from jaxllm.types import InputError

CONLL2003 = "-DOCSTART- -X- -X- O\n\nMira NNP B-NP B-PER\nslept VBD B-VP O\n. . O O\n"
NESTED = "#\thttp://x [2009-1-1]\n1\tMira\tB-PER\tO\n2\tbesucht\tO\tO\n3\tBergen\tB-LOC\tB-ORG\n\n"
CONLLU = (
    "# sent_id = 1\n# text = Mira sings\n"
    "1\tMira\tMira\tPROPN\tNNP\t_\t2\tnsubj\t_\tname=B-PER|SpaceAfter=No\n"
    "2-3\tcannot\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "2\tcan\tcan\tAUX\tMD\t_\t0\troot\t_\tname=O\n3\tnot\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_\n"
)


def read(text, *columns):
    found = read_columns("f", text, *columns)
    return list(zip(found.words, found.tags, strict=True)), found.choice.describe()


@pytest.mark.parametrize(
    ("text", "flags", "words", "tags", "described"),
    [
        (CONLL2003, (), ["Mira", "slept", "."], ["B-PER", "O", "O"], "word 1, tag 4 of 4 columns"),
        (CONLL2003, ("", "3"), ["Mira", "slept", "."], ["B-NP", "B-VP", "O"], "word 1, tag 3 of 4 columns"),
        ("a NN B-NP\nb NN I-NP\n", (), ["a", "b"], ["B-NP", "I-NP"], "word 1, tag 3 of 3 columns"),
        (NESTED, ("", "3"), ["Mira", "besucht", "Bergen"], ["B-PER", "O", "B-LOC"], "word 2, tag 3 of 4 columns"),
        (NESTED, ("", "-1"), ["Mira", "besucht", "Bergen"], ["O", "O", "B-ORG"], "word 2, tag 4 of 4 columns"),
        (NESTED, ("1", "3"), ["1", "2", "3"], ["B-PER", "O", "B-LOC"], "word 1, tag 3 of 4 columns"),
        (NESTED.replace("B-ORG", "O"), (), ["Mira", "besucht", "Bergen"], ["B-PER", "O", "B-LOC"],
         "word 2, tag 3 of 4 columns"),
        (CONLLU, (), ["Mira", "can", "not"], ["B-PER", "O", "O"], "word 2, tag 'name' in column 10 of 10 columns"),
        (CONLLU, ("LEMMA", "name"), ["Mira", "can", "not"], ["B-PER", "O", "O"],
         "word 3, tag 'name' in column 10 of 10 columns"),
        ("1\tMira\tB-PER\t-\tann\n2\tsings\tO\t-\tann\n", (), ["Mira", "sings"], ["B-PER", "O"],
         "word 2, tag 3 of 5 columns"),
        ("Mira B-PER\n\u00a0 O\n  sings O\n", (), ["Mira", "\u00a0", "sings"], ["B-PER", "O", "O"],
         "word 1, tag 2 of 2 columns"),
        ("B-PER\tMira\nO\tsings\n", (), ["Mira", "sings"], ["B-PER", "O"], "word 2, tag 1 of 2 columns"),
        ("# id x\nMira B-PER\n# O\n#tag O\n", (), ["Mira", "#", "#tag"], ["B-PER", "O", "O"],
         "word 1, tag 2 of 2 columns"),
        ("word\tpos\tner\nMira\tN\tB-PER\nsings\tV\tO\n", (), ["Mira", "sings"], ["B-PER", "O"],
         "word 1, tag 3 of 3 columns"),
        ("ner\tword\nB-PER\tMira\nO\tsings\n", ("WORD", "ner"), ["Mira", "sings"], ["B-PER", "O"],
         "word 2, tag 1 of 2 columns"),
        ("Mira N PER\nsings V O\nBergen N PER\nO V O\n", (), ["Mira", "sings", "Bergen", "O"], ["PER", "O", "PER", "O"],
         "word 1, tag 3 of 3 columns"),
    ],
)  # fmt: skip
def test_the_columns_of_words_and_tags(text, flags, words, tags, described):
    assert read(text, *flags) == ([(words, tags)], described)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (NESTED, (), "f: each of the columns 3 (B-PER, B-LOC) and 4 (B-ORG) holds tags; give --tag-column 3 or "),
        (NESTED, ("", "5"), "--tag-column 5: f has 4 columns; give 1 to 4, or -1 for the last"),
        (NESTED, ("", "ner"), "--tag-column ner: f has columns 1 to 4, without names; give one of them"),
        (NESTED, ("3", "3"), "f: column 3 cannot hold both words and tags; give another --word-column"),
        (CONLLU, ("", "ent"), "DEPS, MISC, and in the last one the keys name, SpaceAfter; give one of them"),
        (CONLLU.replace("name=B-PER|", "").replace("name=O", "_"), (), "f: CoNLL-U without a column of tags; MISC"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_told_are_one_line(text, flags, message):
    with pytest.raises(InputError) as caught:
        read(text, *flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("John B-PER\n \t \nsaid O\n\u00a0\nhi O\n", "f, line 4: 1 columns, elsewhere 2, in '\\xa0'"),
        ("a\tO\nb O\nc\tO\n", "f, line 2: 1 columns, elsewhere 2, in 'b O'"),
        ("a\tx\tB-X\nb\tx\t\tO\nc\tx\tO\n", "f, line 2: 4 columns, elsewhere 3"),
        ("a\tx\tB-X\n\tx\tO\n", "f, line 2: column 1 is empty; each line needs a word"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_a_word_and_its_tag_makes_its_sentence_bad(text, message):
    good = "\n" + text.splitlines()[0] + "\n"
    found = read_columns("f", text + good)
    assert [message in fault for fault in found.faults.values()] == [True]
    assert [*found.faults] == [len(found.words) - 2], "the last but one of its sentences, here"
    assert len(found.words[-1]) == 1


def test_another_file_takes_the_same_columns():
    like = read_columns("f", NESTED, "", "3").choice
    other = read_columns("g", NESTED.replace("B-PER", "O").replace("B-LOC", "O"), like=like)
    assert other.tags == [["O", "O", "O"]]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (CONLL2003, True),
        (NESTED, True),
        (CONLLU, True),
        ("Mira B-PER\nsings O", True),
        ("Mira PER\nsings O\n", True),
        ("I have two words\nand then more\n", False),
        ("to be\nor not\n", False),
        ("tokens\tner_tags\nMira sings\tB-PER O\n", False),
        ("text\tlabel\nO what a day\t1\n", False),
        ("", False),
    ],
)
def test_text_that_looks_like_columns(text, columns):
    assert looks_like_columns(text) is columns


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ("-DOCSTART- -X- O\n\na N B-PER\n\nb N O\n\n-DOCSTART- -X- O\n\nc N O\n", [1, 1, 2]),
        ("# newdoc id = x\n1 a B-PER\n\n1 b O\n# newdoc\n\n1 c O\n2 d O\n", [1, 1, 2]),
        ("a B-PER\n\nb O\n\nc O\n\n\n\nd O\n", [0, 0, 0, 1]),
        ("a B-PER\n\n\nb O\n\n\nc O\n", [0, 0, 0]),
    ],
)
def test_documents_are_told_by_lines_that_begin_them_or_by_wider_gaps(text, documents):
    assert read_columns("f", text).documents == documents
