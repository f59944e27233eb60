"""Named sections of a radiology report, as the reports of MIMIC-CXR write them."""

import functools
import re
from collections.abc import Sequence

NAMES = (
    "ADDENDUM", "CLINICAL HISTORY", "CLINICAL INDICATION", "CLINICAL INFORMATION", "COMPARISON", "CONCLUSION",
    "DIAGNOSIS", "DOSE", "EXAM", "EXAMINATION", "FINAL ADDENDUM", "FINAL REPORT", "FINDINGS", "HISTORY", "IMPRESSION",
    "INDICATION", "INTERPRETATION", "NOTIFICATION", "OPINION", "PROCEDURE", "REASON FOR EXAM",
    "REASON FOR EXAMINATION", "RECOMMENDATION", "STUDY", "SUMMARY", "TECHNIQUE", "TYPE OF EXAMINATION", "VIEWS",
    "WET READ",
)  # fmt: skip
"""Headers that begin a section, wanted or not. Any other word before a colon, such as "LUNGS:", is content."""


def keep_sections(report: str, wanted: Sequence[str]) -> str:
    """The wanted sections of a report, each under its header, in the report's order and on one line.

    A header is one of `NAMES` or of `wanted`, in singular or plural, or two or three of them joined by a comma, "/",
    "&" or "AND". It stands at the start of a line in upper or lower case and before a colon; or in upper case before
    a colon inside a line; or in upper case alone on its line. A joined header is wanted if one of its names is.

    Args:
        report: Text with its lines as they were written.
        wanted: Names such as "FINDINGS", in any case.

    Returns:
        "FINDINGS: ... IMPRESSION: ...", which this function maps to itself; empty if no wanted section says anything.
    """
    singular = {_singular(name) for name in wanted}
    report = "\n".join(report.splitlines())
    headers = list(_header_pattern(tuple(singular)).finditer(report))
    starts = [header.start() for header in headers] + [len(report)]
    kept = []
    for header, end in zip(headers, starts[1:], strict=True):
        name = " ".join(next(filter(None, header.groups())).upper().split())
        content = " ".join(report[header.end() : end].split())
        if content and singular & {_singular(part) for part in re.split(r" ?[/&,] ?| AND ", name)}:
            kept.append(f"{name}: {content}")
    return " ".join(kept)


def _singular(name: str) -> str:
    return " ".join(name.upper().split()).removesuffix("S")


@functools.cache
def _header_pattern(wanted: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first, so that no name hides one that it begins.
    names = sorted({*wanted, *map(_singular, NAMES)}, key=lambda name: (-len(name), name))
    one = "(?:" + "|".join(re.escape(name).replace(r"\ ", r"[ \t]+") for name in names) + ")S?"
    # At most three names: an unbounded list of them would make a hostile line take quadratic time.
    header = rf"{one}(?:[ \t]*(?:[/&,]|\bAND\b)[ \t]*{one}){{0,2}}"
    colon = r"[ \t]*(?:\([^()\n]*\)[ \t]*)?:"
    return re.compile(
        rf"^[ \t]*((?i:{header})){colon}|(?<=[\s.])({header}){colon}|^[ \t]*({header})[ \t]*$", re.MULTILINE
    )
