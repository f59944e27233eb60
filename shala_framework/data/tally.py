"""Count and name what reading skips: members of shards that are not fields, and fields without content."""

from collections.abc import Iterable

import attrs

MOST_NAMED = 3
NOTHING_IN_IT = "tar files without a sample"  # valid ones, or the zeros that a failed disk or copy leaves


@attrs.define
class Names:
    """Number of things, and their first names."""

    count: int = 0
    first: tuple[str, ...] = ()

    def add(self, names: Iterable[str], count: int | None = None) -> None:
        """Add more things.

        Args:
            names: All their names, or the first ones.
            count: Number of things; None if names has all of them.
        """
        new = tuple(names)
        self.count += len(new) if count is None else count
        self.first = tuple(dict.fromkeys((*self.first, *new)))[:MOST_NAMED]

    def __str__(self) -> str:
        more = self.count > len(self.first)
        return ("such as " if more else "") + ", ".join(self.first)


@attrs.define
class Tally:
    """Counts of what reading skipped.

    Attributes:
        skipped: Reason to the members of shards that are not fields.
        blank: Reason, such as that nobody is tracked, to the samples with a field that is blank for this reason.
        dropped: Samples that are left out because no modality is present in them.
    """

    skipped: dict[str, Names] = attrs.field(factory=dict)
    blank: dict[str, Names] = attrs.field(factory=dict)
    dropped: Names = attrs.field(factory=Names)

    def __bool__(self) -> bool:
        return bool(self.skipped or self.blank or self.dropped.count)

    @property
    def total(self) -> int:
        """Number of things that were skipped."""
        return sum(names.count for names in (*self.skipped.values(), *self.blank.values(), self.dropped))

    def clear(self) -> None:
        """Reset all counts."""
        self.skipped, self.blank, self.dropped = {}, {}, Names()

    def skip(self, reason: str, name: str) -> None:
        """Count a member of a shard that is not a field."""
        self.skipped.setdefault(reason, Names()).add([repr(name)])

    def add_sample(self, key: str, blank: Iterable[str], *, dropped: bool) -> None:
        """Count a sample with blank fields.

        Args:
            key: Key of the sample.
            blank: Reason for each of its blank fields.
            dropped: Whether the sample is left out.
        """
        for reason in blank:
            self.blank.setdefault(reason, Names()).add([repr(key)])
        if dropped:
            self.dropped.add([repr(key)])

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        for mine, theirs in ((self.skipped, other.skipped), (self.blank, other.blank)):
            for name, names in theirs.items():
                mine.setdefault(name, Names()).add(names.first, names.count)
        self.dropped.add(other.dropped.first, other.dropped.count)

    def sentences(self) -> list[str]:
        """Return one sentence for each kind of skipped thing."""
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
