"""Draw pictures sampled given one modality, below the given one and above the true ones: rows that nobody selected.

    python benchmarks/contact_sheet.py runs/emoji --given line name --out docs/emoji.png [--split test] [--rows 12]
        [--modes] [--scale 2]

A column for each row of the split, evenly spread over it. For each given modality a block: what is given, and of every
other modality of pictures one sample and the true picture. Samples are refined where stage 3 is trained; --modes draws
the modes of stage 1's decoders above them.
"""

import argparse
import textwrap
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from shala_framework.data.rows import Rows, load_rows
from shala_framework.data.splits import split_urls
from shala_framework.model import ShaLa
from shala_framework.run.loading import load

LABEL, GAP, INK = 96, 6, (90, 90, 90)  # pixels beside and between lines of pictures
Picture = NDArray[np.uint8]


def is_picture(x: Tensor) -> bool:
    return x.dtype == torch.uint8 and x.dim() == 4


def drawn(x: Tensor, scale: int) -> list[Picture]:
    """Return pictures uint8 [N, C, H, W] as enlarged RGB arrays."""
    rgb = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
    return list(rgb.permute(0, 2, 3, 1).repeat_interleave(scale, 1).repeat_interleave(scale, 2).cpu().numpy())


def written(texts: list[str], side: int) -> list[Picture]:
    """Return texts as square pictures."""
    found = []
    for text in texts:
        paper = Image.new("RGB", (side, side), "white")
        lines = textwrap.wrap(text, width=max(8, side // 6))[: max(1, side // 12)]
        ImageDraw.Draw(paper).multiline_text((1, 1), "\n".join(lines), fill="black", font=ImageFont.load_default(10))
        found.append(np.asarray(paper))
    return found


def block(
    model: ShaLa, rows: Rows, given: str, scale: int, seed: int, *, modes: bool
) -> list[tuple[str, list[Picture]]]:
    """Return the lines of one given modality with their labels."""
    pictures = {name: x for name, x in rows.x.items() if is_picture(x) and name != given}
    side = max(x.shape[-1] for x in pictures.values()) * scale
    x = rows.x[given]
    shown = drawn(x, scale) if is_picture(x) else written(texts_of(model, given, x), side)
    lines = [(f"given {given}", shown)]
    z = model.sample_latents(1, given={given: x}, seed=seed)
    kinds = [("mode", False)] if modes or "refiner" not in model.stages else []
    kinds += [("sample", True)] if "refiner" in model.stages else []
    decoded = {kind: model.decode(z, refine=refine, seed=seed) for kind, refine in kinds}
    for name, true in pictures.items():
        lines += [(f"{name}, {kind}", drawn(x_of[name], scale)) for kind, x_of in decoded.items()]
        lines.append((f"{name}, true", drawn(true, scale)))
    return lines


def texts_of(model: ShaLa, name: str, x: Tensor) -> list[str]:
    """Return the texts that a modality writes."""
    return [next(iter(model.modalities[name].write(row).values())).decode() for row in x]


def sheet(blocks: list[list[tuple[str, list[Picture]]]]) -> Image.Image:
    """Put blocks of lines below each other, labels at the left."""
    lines = [line for of_given in blocks for line in (*of_given, None)][:-1]
    tallest = max(picture.shape[0] for line in lines if line for picture in line[1])
    width = LABEL + max(len(line[1]) * (tallest + 1) for line in lines if line)
    paper = Image.new("RGB", (width, sum(tallest + 1 if line else GAP for line in lines)), "white")
    draw, top = ImageDraw.Draw(paper), 0
    for line in lines:
        if line is None:
            top += GAP
            continue
        label, pictures = line
        draw.text((2, top + tallest // 2 - 6), label, fill=INK, font=ImageFont.load_default(11))
        for place, picture in enumerate(pictures):
            paper.paste(Image.fromarray(picture), (LABEL + place * (tallest + 1), top))
        top += tallest + 1
    return paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--given", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--scale", type=int, default=2, help="pixels of the sheet for one of a picture")
    parser.add_argument("--modes", action="store_true", help="draw the modes of stage 1, too")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.run)
    if unknown := set(args.given) - set(model.modalities):
        parser.error(f"expected --given of {', '.join(model.modalities)}, got {', '.join(sorted(unknown))}")
    urls = split_urls(model.spec.data, args.split, args.run if model.synthetic else None)
    if not urls:
        parser.error(f"the spec of {args.run} names no {args.split} shards; choose another --split")
    rows = load_rows(urls, model.modalities)
    rows = rows.take(torch.nonzero(rows.presence.all(1))[:, 0])  # with every modality
    rows = rows.take(torch.linspace(0, len(rows) - 1, min(args.rows, len(rows))).round().long())
    if not any(is_picture(x) for x in rows.x.values()):
        parser.error(f"expected a modality of pictures, got {', '.join(rows.x)}")
    blocks = [block(model, rows, given, args.scale, args.seed, modes=args.modes) for given in args.given]
    sheet(blocks).quantize(256).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
