"""Write the samples of a run as files that a person can open."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from shala_framework.data.labels import label_title
from shala_framework.data.rows import Rows
from shala_framework.model import PriorName, ShaLa
from shala_framework.plugin.media import encode_mp4, encode_png
from shala_framework.plugin.modality import Preview
from shala_framework.report.panels import Strip, contact_sheet, side_by_side
from shala_framework.support.checkpoint import write_file
from shala_framework.support.escaping import printable

LONGEST_STEM = 100  # bytes of a file's name, before the number, the modality and the extension
LONGEST_CAPTION = 60  # characters of a label
SYNTHETIC = "SYNTHETIC STAND-IN DATA"
REPORT_FILE = "report.html"


@attrs.frozen(kw_only=True)
class SampleWriter:
    """Writes samples of a model into a folder.

    Attributes:
        model: Model of the samples.
        folder: Folder for the files.
        on_file: Called with the number of samples written so far.
        wanted: Modalities whose own files are written; None for all.
        refine: Whether a trained third stage refines the samples.
        written: Key, number and files by modality (relative to the folder) of each written sample.
    """

    model: ShaLa
    folder: Path
    on_file: Callable[[int], None] = lambda _: None
    wanted: tuple[str, ...] | None = None
    refine: bool = True
    written: list[dict[str, Any]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def alarm(self) -> str:
        """Warning for every picture if the training data are synthetic."""
        return SYNTHETIC if self.model.synthetic else ""

    def joint(self, num_samples: int, *, seed: int = 0, prior: PriorName = "diffusion", name: str = "joint") -> None:
        """Write joint samples: all modalities side by side, the files of each modality, and a contact sheet.

        The combined file is `<name>/000.mp4`, or `<name>/000.png` if nothing moves.
        """
        x = self.model.generate(num_samples, seed=seed, prior=prior, refine=self.refine)
        groups = []
        for n in range(num_samples):
            previews = [(m, self._preview(m, x[m][n])) for m in self.model.names]
            own = {m: x[m][n] for m in self._chosen(self.model.names)}
            self._write_sample(name, f"{n:03d}", previews, own, {"sample": n})
            groups.append([Strip(f"{n:03d} {m}", preview) for m, preview in previews])
            self.on_file(n + 1)
        sheet = contact_sheet(groups, title=f"{self.model.spec.name}: joint samples", alarm=self.alarm)
        write_file(self.folder / f"{name}.png", encode_png(sheet))

    def cross_modal(
        self, rows: Rows, given: Sequence[str], *, num_samples: int = 1, seed: int = 0, truth: bool = True
    ) -> None:
        """Generate all modalities from some: `given_<names>/<key>_0.mp4` (or png) next to real data, and a sheet.

        A given modality is generated too if `wanted` names it.

        Args:
            rows: Rows that have every given modality.
            given: Modalities to generate from.
            num_samples: Samples of each row.
            seed: Seed of the sampler.
            truth: Whether to show the real x of the generated modalities.
        """
        model, name = self.model, _file_stem("given_" + "_".join(given))
        x = model.generate(num_samples, given={m: rows.x[m] for m in given}, seed=seed, refine=self.refine)
        wanted = [m for m in model.names if m not in given or m in (self.wanted or ())]
        groups, stems = [], _file_stems(rows.keys)
        for n, key in enumerate(rows.keys):
            label = f" ({_caption(label_title(rows.labels[n]))})" if rows.labels[n] else ""
            head = [(f"given {m}", self._preview(m, rows.x[m][n])) for m in given]
            tail = [(f"true {m}", self._true_preview(rows, m, n)) for m in wanted] if truth else []
            strips = [Strip(caption + label, preview) for caption, preview in head]
            for s in range(num_samples):
                stem = f"{stems[key]}_{s}"
                made = [(f"generated {m}", self._preview(m, x[m][n, s])) for m in wanted]
                own = {m: x[m][n, s] for m in self._chosen(wanted)}
                self._write_sample(name, stem, [*head, *made, *tail], own, {"row": key, "sample": s})
                number = f" {s}" if num_samples > 1 else ""
                strips += [Strip(caption + number, preview) for caption, preview in made]
                self.on_file(n * num_samples + s + 1)
            groups.append([*strips, *(Strip(caption, preview) for caption, preview in tail)])
        title = f"{model.spec.name}: {', '.join(wanted)} given {', '.join(given)}"
        write_file(self.folder / f"{name}.png", encode_png(contact_sheet(groups, title=title, alarm=self.alarm)))

    def _preview(self, modality: str, x: Tensor) -> Preview:
        return self.model.modalities[modality].preview(x)

    def _true_preview(self, rows: Rows, modality: str, n: int) -> Preview | None:
        column = self.model.names.index(modality)
        return self._preview(modality, rows.x[modality][n]) if rows.presence[n, column] else None

    def _chosen(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.wanted is None or name in self.wanted]

    def _write_sample(
        self,
        name: str,
        stem: str,
        previews: Sequence[tuple[str, Preview | None]],
        own: Mapping[str, Tensor],
        entry: Mapping[str, Any],
    ) -> None:
        """Write all modalities side by side and each modality's own files, and add an entry to `written`."""
        frames, rate = side_by_side(previews, alarm=self.alarm)
        moves = len(frames) > 1
        together = f"{name}/{stem}.{'mp4' if moves else 'png'}"
        write_file(self.folder / together, encode_mp4(frames, rate) if moves else encode_png(frames[0]))
        files: dict[str, list[str]] = {}
        for modality, x in own.items():
            for extension, content in self.model.modalities[modality].write(x).items():
                file = f"{name}/{stem}.{modality}.{extension}"
                write_file(self.folder / file, content)
                files.setdefault(modality, []).append(file)
        self.written.append({**entry, "together": together, "files": files})


def choose_rows(rows: Rows, column: int, count: int) -> Rows:
    """Select rows that have the modality of a presence column, spread over the whole set."""
    return rows.having([list(rows.x)[column]]).spread(count)


def _file_stems(keys: Iterable[str]) -> dict[str, str]:
    """Return the start of a file name for each key. Names that would be alike, also without case, end in a hash."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for key in dict.fromkeys(keys):
        stem = _file_stem(key)
        if stem.casefold() in taken:
            stem = _hashed(stem, key)
        taken.add(stem.casefold())
        stems[key] = stem
    return stems


def _file_stem(key: str) -> str:
    """Return the start of a file name for a key. Names have at most 255 bytes, and long keys often end alike."""
    stem = re.sub(r"[^\w-]", "_", key)
    return stem if len(stem.encode()) <= LONGEST_STEM else _hashed(stem, key)


def _hashed(stem: str, key: str) -> str:
    start = stem.encode()[: LONGEST_STEM - 17].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _caption(label: str) -> str:
    """Shorten a label to one line of a picture."""
    return printable(label[:LONGEST_CAPTION], lines=False) + ("..." if len(label) > LONGEST_CAPTION else "")
