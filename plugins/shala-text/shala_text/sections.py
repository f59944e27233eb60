"""Named sections of a radiology report, as the reports of MIMIC-CXR write them."""

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
"""Headers that begin a section, wanted or not, in any place that `keep_sections` names."""

_CONCLUDING = ("FINDINGS", "IMPRESSION")
_RULE = re.compile(r"^[ \t]*[_=-]{10,}[ \t]*$", re.MULTILINE)  # fewer than ten underscores are what was taken out
_TITLE = re.compile(r"^[ \t]*([A-Z][A-Z0-9 \t()/&,.-]{1,80}):(?=\s|$)", re.MULTILINE)
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")


@attrs.frozen
class _Section:
    """One section of a report.

    Attributes:
        name: Its header in capitals, or the section that the header opens by `section_of`.
        header: Its header as it was written, in capitals.
        content: What stands under it, with its lines.
    """

    name: str
    header: str
    content: str

    @property
    def text(self) -> str:
        """The content on one line."""
        return " ".join(self.content.split())


def keep_sections(report: str, wanted: Sequence[str]) -> str:
    """The wanted sections of a report, each under its header, in the report's order and on one line.

    A header is one of `NAMES` or of `wanted`, in singular or plural, or two or three of them joined by a comma, "/",
    "&" or "AND". It stands at the start of a line in upper or lower case and before a colon; or in upper case before
    a colon inside a line; or in upper case alone on its line. A joined header is wanted if one of its names is.
    At the start of a line, before a colon and in upper case, every title that `section_of` knows is a header too, such
    as "CHEST, TWO VIEWS:", and its section gets that name. Any other word before a colon, such as "LUNGS:", is content.

    Where findings or impression are wanted and the report has neither, it may have no headers for them: then the last
    section's paragraphs but the first, which belongs to its header or is the report's title, are kept as findings.

    Args:
        report: Text with its lines as they were written.
        wanted: Names such as "FINDINGS", in any case.

    Returns:
        "FINDINGS: ... IMPRESSION: ...", which this function maps to itself; empty if no wanted section says anything.
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
    """The sections of a report, without what stands before the first."""
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
            content = ""  # the title of the report and a date that was taken out
        yield _Section(name, header, content)


def _capitals(match: re.Match[str]) -> str:
    """The header that a pattern has found, in capitals and with single spaces."""
    return " ".join(next(filter(None, match.groups())).upper().split())


def _shown(section: _Section, wanted: set[str]) -> str:
    """The header of a wanted section: its own where that is what is wanted, else the name of what it opens."""
    return section.header if wanted & _parts(section.header) else section.name


def _parts(header: str) -> set[str]:
    """The names of a header, joined or not, in the singular."""
    return {_singular(part) for part in re.split(r" ?[/&,] ?| AND ", header)}


def _names(section: _Section) -> set[str]:
    """What a section is wanted by: the names of its header, and the section that it opens."""
    return {*_parts(section.header), _singular(section.name)}


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
