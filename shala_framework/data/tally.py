"""What reading passes over, counted and named: members of shards that are no fields, and fields that say nothing."""

from collections.abc import Iterable

import attrs

MOST_NAMED = 3
NOTHING_IN_IT = "tar files without a sample"  # sound ones, or the zeros that a failed disk or copy leaves


@attrs.define
class Names:
    """How many there are of something, and the first of their names."""

    count: int = 0
    first: tuple[str, ...] = ()

    def add(self, names: Iterable[str], count: int | None = None) -> None:
        """Take in some more.

        Args:
            names: Of them, or the first ones.
            count: How many there are; None for as many as there are names.
        """
        new = tuple(names)
        self.count += len(new) if count is None else count
        self.first = tuple(dict.fromkeys((*self.first, *new)))[:MOST_NAMED]

    def __str__(self) -> str:
        more = self.count > len(self.first)
        return ("such as " if more else "") + ", ".join(self.first)


@attrs.define
class Tally:
    """What was passed over in some reading.

    Attributes:
        skipped: Reason to the members of shards that are no fields.
        blank: What is said of a field that says nothing, such as that nobody is tracked, to the samples that have it.
        dropped: Samples that are left out because of that: nothing else is in them.
    """

    skipped: dict[str, Names] = attrs.field(factory=dict)
    blank: dict[str, Names] = attrs.field(factory=dict)
    dropped: Names = attrs.field(factory=Names)

    def __bool__(self) -> bool:
        return bool(self.skipped or self.blank or self.dropped.count)

    @property
    def total(self) -> int:
        """How often anything was passed over."""
        return sum(names.count for names in (*self.skipped.values(), *self.blank.values(), self.dropped))

    def clear(self) -> None:
        """Start again."""
        self.skipped, self.blank, self.dropped = {}, {}, Names()

    def skip(self, reason: str, name: str) -> None:
        """Count a member of a shard that is no field."""
        self.skipped.setdefault(reason, Names()).add([repr(name)])

    def add_sample(self, key: str, blank: Iterable[str], *, dropped: bool) -> None:
        """Count a sample.

        Args:
            key: Of the sample.
            blank: What is said of each of its fields that says nothing.
            dropped: Whether nothing is left of the sample.
        """
        for reason in blank:
            self.blank.setdefault(reason, Names()).add([repr(key)])
        if dropped:
            self.dropped.add([repr(key)])

    def add(self, other: "Tally") -> None:
        """Take in what another reading passed over."""
        for mine, theirs in ((self.skipped, other.skipped), (self.blank, other.blank)):
            for name, names in theirs.items():
                mine.setdefault(name, Names()).add(names.first, names.count)
        self.dropped.add(other.dropped.first, other.dropped.count)

    def sentences(self) -> list[str]:
        """One for each kind of thing that was passed over."""
        said = [f"skipped {reason} in the shards ({names.count}): {names}" for reason, names in self.skipped.items()]
        said += [
            f"{reason}, in {_samples(names.count)}, {names}; this counts as missing"
            for reason, names in self.blank.items()
        ]
        if self.dropped.count:
            said.append(
                f"left out {_samples(self.dropped.count)} in which no other modality is present, {self.dropped}"
            )
        return said


def _samples(count: int) -> str:
    return f"{count} sample" if count == 1 else f"{count} samples"
