"""Named sections of a radiology report, in the style of MIMIC-CXR."""

import functools
import re
from collections.abc import Iterator, Sequence

import attrs

from shala_text.titles import names_a_view, section_of

NAMES = (
    "ADDENDUM", "CLINICAL HISTORY", "CLINICAL INDICATION", "CLINICAL INFORMATION", "COMPARISON", "CONCLUSION",
    "DIAGNOSIS", "DOSE", "EXAM", "EXAMINATION", "FINAL ADDENDUM", "FINAL REPORT", "FINDINGS", "HISTORY", "IMPRESSION",
    "INDICATION", "INTERPRETATION", "NOTIFICATION", "OPINION", "PROCEDURE", "REASON FOR EXAM",
    "REASON FOR EXAMINATION", "RECOMMENDATION", "STUDY", "SUMMARY", "TECHNIQUE", "TYPE OF EXAMINATION", "VIEWS",
    "WET READ",
)  # fmt: skip
"""Headers that begin a section, wanted or not, wherever `keep_sections` recognises headers."""

_CONCLUDING = ("FINDINGS", "IMPRESSION")
_RULE = re.compile(r"^[ \t]*[_=-]{10,}[ \t]*$", re.MULTILINE)  # fewer than ten underscores mark removed text
_TITLE = re.compile(r"^[ \t]*([A-Z][A-Z0-9 \t()/&,.-]{1,80}):(?=\s|$)", re.MULTILINE)
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")


@attrs.frozen
class _Section:
    """One section of a report.

    Attributes:
        name: Its header in capitals, or the section that `section_of` assigns to the header.
        header: Its header as written, in capitals.
        content: The text under it, with line breaks.
    """

    name: str
    header: str
    content: str

    @property
    def text(self) -> str:
        """Return the content on one line."""
        return " ".join(self.content.split())


def keep_sections(report: str, wanted: Sequence[str]) -> str:
    """Return the wanted sections of a report, each under its header, in the report's order and on one line.

    A header is one of `NAMES` or of `wanted`, in singular or plural, or two or three of them joined by a comma, "/",
    "&" or "AND". It appears in upper or lower case at the start of a line and before a colon, in upper case before a
    colon within a line, or in upper case alone on its line. A joined header is wanted if one of its names is. Every
    title that `section_of` knows, such as "CHEST, TWO VIEWS:", is also a header if it appears in upper case at the
    start of a line and before a colon; its section gets the name that `section_of` returns. Any other word before a
    colon, such as "LUNGS:", is content.

    A report may have no headers for findings and impression. If one of them is wanted and the report has neither, all
    paragraphs of its last section except the first are kept as findings. The first paragraph belongs to the section's
    header or is the report's title.

    Args:
        report: Text with its original line breaks.
        wanted: Names such as "FINDINGS", in any case.

    Returns:
        "FINDINGS: ... IMPRESSION: ...", which this function maps to itself; empty if no wanted section has content.
    """
    singular = {_singular(name) for name in wanted}
    report = _RULE.sub("", report.replace("\r\n", "\n"))
    sections = list(_sections(report, tuple(singular)))
    kept = [section for section in sections if section.text and singular & _names(section)]
    concluding = {_singular(name) for name in _CONCLUDING}
    if not kept and singular & concluding and not any(s.text and concluding & _names(s) for s in sections):
        last = sections[-1].content if sections else report
        rest = " ".join(" ".join(_PARAGRAPHS.split(last.strip())[1:]).split())
        name = next(name for name in _CONCLUDING if _singular(name) in singular)
        return f"{name}: {rest}" if rest else ""
    return " ".join(f"{_shown(section, singular)}: {section.text}" for section in kept)


def _sections(report: str, wanted: tuple[str, ...]) -> Iterator[_Section]:
    """Yield the sections of a report, without the text before the first."""
    headers = {match.start(): match for match in _header_pattern(wanted).finditer(report)}
    titles = {match.start(): match for match in _TITLE.finditer(report) if section_of(_capitals(match))}
    titles = {start: match for start, match in titles.items() if start not in headers}
    within = {start for match in titles.values() for start in range(match.start(), match.end())}
    found: list[tuple[re.Match[str], str, str]] = []  # header, name of the section, header in capitals
    for start, match in sorted((headers | titles).items()):
        header = _capitals(match)
        section = section_of(header) or header
        # Under findings, a title such as "CHEST WALL" is one of their parts.
        part = section == "FINDINGS" and names_a_view(header) and bool(found) and found[-1][1] == "FINDINGS"
        if (start in titles and not part) or start not in within:
            found.append((match, section, header))
    ends = [match.start() for match, _, _ in found] + [len(report)]
    for (match, name, header), end in zip(found, ends[1:], strict=True):
        content = report[match.end() : end]
        if name == "FINDINGS" and names_a_view(header) and not any(map(str.isalpha, content)):
            content = ""  # the title of the report and a removed date
        yield _Section(name, header, content)


def _capitals(match: re.Match[str]) -> str:
    """Return the header that a pattern found, in capitals and with single spaces."""
    return " ".join(next(filter(None, match.groups())).upper().split())


def _shown(section: _Section, wanted: set[str]) -> str:
    """Return the header of a wanted section: its own if that is wanted, otherwise the name of the section it opens."""
    return section.header if wanted & _parts(section.header) else section.name


def _parts(header: str) -> set[str]:
    """Return the names in a header, joined or not, in the singular."""
    return {_singular(part) for part in re.split(r" ?[/&,] ?| AND ", header)}


def _names(section: _Section) -> set[str]:
    """Return all names by which a section can be wanted: those in its header, and the section that it opens."""
    return {*_parts(section.header), _singular(section.name)}


def _singular(name: str) -> str:
    return " ".join(name.upper().split()).removesuffix("S")


@functools.cache
def _header_pattern(wanted: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first, so that no name hides a longer one.
    names = sorted({*wanted, *map(_singular, NAMES)}, key=lambda name: (-len(name), name))
    one = "(?:" + "|".join(re.escape(name).replace(r"\ ", r"[ \t]+") for name in names) + ")S?"
    # At most three names: with an unbounded list, a hostile line would take quadratic time.
    header = rf"{one}(?:[ \t]*(?:[/&,]|\bAND\b)[ \t]*{one}){{0,2}}"
    colon = r"[ \t]*(?:\([^()\n]*\)[ \t]*)?:"
    return re.compile(
        rf"^[ \t]*((?i:{header})){colon}|(?<=[\s.])({header}){colon}|^[ \t]*({header})[ \t]*$", re.MULTILINE
    )
