"""Titles of sections in radiology reports, and the section that each one opens.

Reference: Johnson et al. 2019, "MIMIC-CXR", for the titles in its reports; and the owners' section parser
    (github.com/MIT-LCP/mimic-cxr, txt/section_parser.py) for the section that each title opens.
"""

import re

SECTIONS = {
    "FINDINGS": (
        "CHEST, TWO VIEWS", "FINDING", "FINDINS", "FINDINDGS", "FINDGINGS", "FINDNGS", "FINDNINGS", "FINIDNGS",
        "REFERENCE FINDINGS",
    ),
    "IMPRESSION": (
        "CONCLUSION", "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS/ IMPRESSION", "NDICATION",
        "MPRESSION", "IMPRESSON", "IMPRRESSION", "IMORESSION", "IMPRESSOIN", "IMPRSSION", "IMPRESION", "IMPERSSION",
        "IMPESSION",
    ),
    "COMPARISON": (
        "COMPARISONS", "COMPARISION", "COMPARISIONS", "COMPARSION", "COMPARRISON", "COMPARISON EXAM", "COMPARISON FILM",
        "REFERENCE EXAM",
    ),
    "HISTORY": ("CLINICAL HISTORY", "CLINICAL INFORMATION", "PATIENT HISTORY", "PFI"),
    "INDICATION": ("REASON FOR EXAMINATION", "REASON FOR EXAM", "CLINICAL INDICATION", "IDICATION"),
    "EXAMINATION": ("EXAM", "TYPE OF EXAMINATION"),
    "RECOMMENDATIONS": ("RECOMMENDATION", "RECOMMENDATION(S)"),
    "WET READ": ("WETREAD",),
    "COMMENT": (),
    "DATE": (),
}  # fmt: skip
"""Sections by their main name, with the other titles that open them."""

_SECTION_OF = {title: section for section, titles in SECTIONS.items() for title in (section, *titles)}
_PARTS = (
    "IMPRESSION",
    "FINDINGS",
    "HISTORY",
    "COMPARISON",
    "ADDENDUM",
)  # a title that contains one of these opens that section
_VIEWS = re.compile(
    "CHEST|PORTABLE|PA AND LAT|LATERAL AND PA|AP AND LATERAL|LATERAL AND AP|FRONTAL AND|TWO VIEWS|FRONTAL VIEW|PA VIEW"
    "|AP VIEW|ONE VIEW|LATERAL VIEW|BONE WINDOW|FRONTAL UPRIGHT|FRONTAL SEMI-UPRIGHT|RIBS"
)


def section_of(title: str) -> str | None:
    """Return the section that a title opens, such as "IMPRESSION" for "CONCLUSION", or None if the title is unknown.

    Args:
        title: Title in capitals, with single spaces.
    """
    if title in _SECTION_OF:
        return _SECTION_OF[title]
    return next((part for part in _PARTS if part in title), "FINDINGS" if names_a_view(title) else None)


def names_a_view(title: str) -> bool:
    """Return whether a title names a view, such as "PA AND LATERAL CHEST RADIOGRAPH", under which findings appear.

    Args:
        title: Title in capitals, with single spaces.
    """
    return _VIEWS.search(title) is not None
