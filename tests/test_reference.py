"""What is said of a spec's keys, and that the documentation says the same."""

import attrs
import pytest

from shala_framework.cli.main import main
from shala_framework.spec.reference import as_markdown, keys_as_text, keys_of, spec_tables


def call(*arguments):
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    return leaving.value.code


def test_the_documentation_has_every_key(request):
    """docs/spec.md is what the schema's classes say; `shala keys --markdown > docs/spec.md` writes it."""
    assert (request.config.rootpath / "docs" / "spec.md").read_text() == as_markdown(spec_tables())


def test_every_key_says_what_it_means():
    unexplained = [f"{table.name}.{key.name}" for table in spec_tables() for key in table.keys if not key.meaning]
    assert unexplained == []


def test_keys_of_one_table_and_those_inside_it(capsys):
    assert call("keys", "train") == 0
    out = capsys.readouterr().out
    assert "[train]" in out
    assert "[train.prior]" in out
    assert "[prior]" not in out
    assert "learning_rate         float; default 0.001" in out.partition("[train.prior]")[2]  # not its parent's 0.01
    assert "Peak of the schedule" in out.partition("[train.prior]")[2]  # but its parent's words
    assert call("keys", "trian") == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_an_extended_class_explains_with_both_docstrings():
    @attrs.frozen
    class Parent:
        """One.

        Attributes:
            a: The first,
                in two lines.
            b: The second.

        Raises:
            ValueError: Never.
        """

        a: int
        b: tuple[int, ...] = (1, 2)

    @attrs.frozen
    class Child(Parent):
        """Two.

        Attributes:
            b: Another second.
            c: The third.
        """

        b: tuple[int, ...] = (3,)
        c: float | None = None

    found = {key.name: (key.kind, key.default, key.meaning) for key in keys_of(Child)}
    assert found == {
        "a": ("int", "required", "The first, in two lines."),
        "b": ("an array of int", "[3]", "Another second."),
        "c": ("float", "none", "The third."),
    }
    assert "a                     int; required\n" in keys_as_text(keys_of(Parent))
