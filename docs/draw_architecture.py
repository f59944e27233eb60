"""Draw docs/layers.svg, the packages and who imports whom, and docs/flow.svg, the data through the model.

    python docs/draw_architecture.py

The layers come from MAY_IMPORT in tests/test_architecture.py, which a test compares with every import of the code. An
arrow leads from a package to one that it imports; arrows that follow from others (a imports b, b imports c, so a may
import c) are left out unless there is no such path.
"""

import ast
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
TABLE = DOCS.parent / "tests" / "test_architecture.py"
WHAT = {
    "cli": "shala and its verbs",
    "run": "a run's folder and phases",
    "report": "report.html, pictures",
    "evaluation": "judges, metrics",
    "training": "loop, optimisers, states",
    "model": "ShaLa: the stages assembled",
    "data": "shards, order, packing",
    "refiner": "stage 3",
    "prior": "stage 2",
    "autoencoder": "stage 1",
    "spec": "TOML, schema, errors",
    "plugin": "what plugins import",
    "support": "errors, files, processes",
}
HIDDEN = {"__main__", "plugin.testing"}  # one line, and a suite for the tests of plugins
BLUE, GREEN, GREY, ORANGE = "#dbe9f6", "#dff0e0", "#eeeeee", "#fbe8d3"
BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 200, 44, 40, 28, 24


def may_import() -> dict[str, set[str]]:
    """Which packages each package of the core may import."""
    for node in ast.parse(TABLE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MAY_IMPORT":
            found: dict[str, set[str]] = ast.literal_eval(node.value)
            return {part: others - HIDDEN for part, others in found.items() if part not in HIDDEN}
    raise LookupError(f"{TABLE} has no MAY_IMPORT")


def heights(graph: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """How many packages lie below each, on the longest path."""

    def height(part: str) -> int:
        return 1 + max((height(other) for other in graph[part]), default=-1)

    return {part: height(part) for part in graph}


def needed_arrows(graph: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others: the transitive reduction."""

    def below(part: str) -> set[str]:
        return {lower for other in graph[part] for lower in {other} | below(other)}

    return [
        (part, other)
        for part in graph
        for other in sorted(graph[part])
        if not any(other in below(between) for between in graph[part])
    ]


def text(x: float, y: float, words: str, *, size: int = 13, weight: str = "normal", colour: str = "#222222") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="middle">{escape(words)}</text>'
    )


def box(x: float, y: float, title: str, what: str, colour: str, width: float = BOX_WIDTH) -> str:
    """A box whose upper left corner is (x, y)."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{BOX_HEIGHT}" rx="6" fill="{colour}" stroke="#777777"/>'
        + text(x + width / 2, y + 18, title, weight="bold")
        + text(x + width / 2, y + 35, what, size=11, colour="#555555")
    )


def arrow(points: Iterable[tuple[float, float]]) -> str:
    path = " L ".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M {path}" fill="none" stroke="#555555" stroke-width="1.4" marker-end="url(#head)"/>'


def picture(width: float, height: float, title: str, pieces: Iterable[str]) -> str:
    """An SVG file with a light background, so that it can be read in a dark page too."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(title)}</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="#555555"/></marker></defs>',
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#ffffff"/>',
            *pieces,
            "</svg>",
            "",
        ]
    )


def layers() -> str:
    """The packages, each above those that it imports, and plugins beside them."""
    graph = may_import()
    level = heights(graph)
    rows = [sorted(part for part in graph if level[part] == n) for n in range(max(level.values()), -1, -1)]
    columns = max(map(len, rows))
    width = 2 * MARGIN + (columns + 1) * BOX_WIDTH + (columns + 1) * GAP_X
    height = 2 * MARGIN + len(rows) * BOX_HEIGHT + (len(rows) - 1) * GAP_Y
    place = {}
    for n, row in enumerate(rows):
        left = MARGIN + (columns - len(row)) * (BOX_WIDTH + GAP_X) / 2
        for m, part in enumerate(row):
            place[part] = (left + m * (BOX_WIDTH + GAP_X), MARGIN + n * (BOX_HEIGHT + GAP_Y))
    pieces = []
    for upper, lower in needed_arrows(graph):
        (x0, y0), (x1, y1) = place[upper], place[lower]
        ends = [(x0 + BOX_WIDTH / 2, y0 + BOX_HEIGHT), (x1 + BOX_WIDTH / 2, y1 - 1)]
        if level[upper] - level[lower] > 1 and x0 != x1:  # past the box between, not through it
            side = x0 if x1 < x0 else x0 + BOX_WIDTH
            ends[:1] = [(side, y0 + BOX_HEIGHT / 2), (ends[1][0], y0 + BOX_HEIGHT / 2)]
        pieces.append(arrow(ends))
    colours = {"autoencoder": GREEN, "prior": GREEN, "refiner": GREEN, "model": GREEN, "plugin": ORANGE}
    pieces += [box(x, y, part, WHAT.get(part, ""), colours.get(part, BLUE)) for part, (x, y) in place.items()]
    x, y = width - MARGIN - BOX_WIDTH, place["plugin"][1]
    pieces.append(box(x, y - 2 * (BOX_HEIGHT + GAP_Y), "plugins", "packages of their own", ORANGE))
    right = place["plugin"][0] + BOX_WIDTH
    pieces.append(
        arrow(
            [
                (x + BOX_WIDTH / 2, y - BOX_HEIGHT - 2 * GAP_Y),
                (x + BOX_WIDTH / 2, y + BOX_HEIGHT / 2),
                (right + 1, y + BOX_HEIGHT / 2),
            ]
        )
    )
    return picture(width, height, "The packages of shala_framework; arrows lead to what a package imports", pieces)


def flow() -> str:
    """A sample from its bytes through the stages and back to files."""
    step_x, step_y = BOX_WIDTH + GAP_X, BOX_HEIGHT + 44
    boxes = {
        "shards": (0, 0, "shards", "keys and original bytes", GREY),
        "read": (1, 0, "modality.read", "bytes to tensors", ORANGE),
        "encoders": (2, 0, "encoders", "x to feature h", ORANGE),
        "posterior": (3, 0, "posterior", "present h to q(z | x)", GREEN),
        "store": (3, 1, "latent store", "q and h of the training set", GREY),
        "decoders": (2, 1, "decoders", "z to p(x | z)", ORANGE),
        "denoiser": (3, 2, "denoiser", "p(z | x of any subset)", GREEN),
        "sampler": (2, 2, "sampler", "new z", GREEN),
        "write": (1, 1, "modality.write", "tensors to files", ORANGE),
        "evaluation": (1, 2, "evaluation", "judges and metrics", BLUE),
        "files": (0, 1, "samples", "png, mp4, wav, txt", GREY),
        "report": (0, 2, "report.html", "one page", BLUE),
    }
    place = {name: (MARGIN + 90 + c * step_x, MARGIN + r * step_y) for name, (c, r, *_) in boxes.items()}
    pieces = []
    links = (
        ("shards", "read"), ("read", "encoders"), ("encoders", "posterior"), ("posterior", "store"),
        ("posterior", "decoders"), ("store", "denoiser"), ("denoiser", "sampler"), ("sampler", "decoders"),
        ("decoders", "write"), ("write", "files"), ("decoders", "evaluation"), ("evaluation", "report"),
        ("files", "report"),
    )  # fmt: skip
    for one, other in links:
        (x0, y0), (x1, y1) = place[one], place[other]
        if y0 == y1:
            ends = [(x0 + BOX_WIDTH, x1 - 1), (x0, x1 + BOX_WIDTH + 1)][x1 < x0]
            pieces.append(arrow([(ends[0], y0 + BOX_HEIGHT / 2), (ends[1], y1 + BOX_HEIGHT / 2)]))
        elif x0 == x1:
            edges = (y0 + BOX_HEIGHT, y1 - 1) if y1 > y0 else (y0, y1 + BOX_HEIGHT + 1)
            pieces.append(arrow([(x0 + BOX_WIDTH / 2, y) for y in edges]))
        else:
            pieces.append(arrow([(x0, y0 + BOX_HEIGHT), (x1 + BOX_WIDTH, y1)]))
    pieces += [box(*place[name], title, what, colour) for name, (_, _, title, what, colour) in boxes.items()]
    for row, words in enumerate(("read, encode", "decode, write", "stage 2, measure")):
        pieces.append(text(MARGIN + 36, MARGIN + row * step_y + 27, words, size=11, colour="#555555"))
    width = MARGIN * 2 + 90 + 4 * BOX_WIDTH + 3 * GAP_X
    return picture(width, 2 * MARGIN + 2 * step_y + BOX_HEIGHT, "The flow of data through the model", pieces)


if __name__ == "__main__":
    (DOCS / "layers.svg").write_text(layers())
    (DOCS / "flow.svg").write_text(flow())
