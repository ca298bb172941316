from __future__ import annotations

from bt.wording import counted, in_short, meant, printable, the_first, unnamed_labels


def test_one_is_singular() -> None:
    assert [counted(n, "scan") for n in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\nc\\u202e"


def test_of_many_lines_the_first() -> None:
    lines = [f"line {number}" for number in range(12)]
    assert the_first(lines[:10], "see there") == lines[:10]
    assert the_first(lines, "see there") == [*lines[:10], "and 2 more: see there"]


def test_an_unknown_name_is_mended_or_the_known_are_told() -> None:
    assert meant("trian", ["data", "train"], "[{}]") == "did you mean [train]?"
    assert meant("x", ["data", "train"], "[{}]") == "known: [data], [train]"


def test_label_numbers_that_nothing_names() -> None:
    assert unnamed_labels([], "scans") == []
    assert unnamed_labels([7], "scans") == [
        "label number 7 is not in the table and counts as background: bt data show scans"
    ]
    (line,) = unnamed_labels(range(12, 0, -1), "scans")
    assert line.startswith("label numbers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ... are not in the table")


def test_of_many_words_the_first() -> None:
    assert in_short("AB") == "A, B"
    assert in_short("ABCDE", most=3) == "A, B, C and 2 more"
