"""Signals that a report shows together, with their captions."""

import attrs

from shala_framework.report.data_uris import Media


@attrs.frozen
class Cell:
    """One signal of a group.

    Attributes:
        caption: Description of the signal.
        media: Elements that show it; empty if it was not recorded.
        role: "given", "generated" or "true".
    """

    caption: str
    media: list[Media]
    role: str


@attrs.frozen
class SignalGroup:
    """Signals that are shown together.

    Attributes:
        title: Title of the group.
        cells: Signals in display order.
    """

    title: str
    cells: list[Cell]
