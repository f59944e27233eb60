"""The account of one pass over a data set's samples."""

import os

from shala_framework.plugin import Account


def test_notes_show_five_examples_and_count_all():
    """Names with one reason and noun share a note, at the position of the first, whatever bytes they contain."""
    account = Account()
    account.leave_out("odd", "0")
    account.note("3 of 8 samples without txt")
    for number in range(1, 7):
        account.leave_out("odd", f"{number}")
    account.leave_out("odd", "line 3", noun="row")
    account.leave_out("bytes", os.fsdecode(b"caf\xe9"))
    account.leave_out("bytes", "half a pair \ud83d")
    assert account.notes == [
        "7 files left out, odd: 0, 1, 2, 3, 4, ...",
        "3 of 8 samples without txt",
        "1 row left out, odd: line 3",
        r"2 files left out, bytes: caf\xe9, half a pair \ud83d",
    ]
    assert account.left_out == [
        *(("odd", str(number)) for number in range(7)),
        ("odd", "line 3"),
        ("bytes", r"caf\xe9"),
        ("bytes", r"half a pair \ud83d"),
    ]


def test_every_sample_is_wanted_unless_the_caller_says_otherwise():
    assert Account().wanted("a")
    assert not Account(lambda key: key == "b").wanted("a")
