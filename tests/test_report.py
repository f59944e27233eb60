"""report.html is one self-contained file, whatever names the data contain."""

import base64
import contextlib
import io
import json
import re
import shutil
import wave
from html.parser import HTMLParser
from pathlib import Path

import attrs
import numpy as np
import pytest
import tomli
import torch
from PIL import Image

from shala_framework import load
from shala_framework.cli.main import main, main_run
from shala_framework.data.rows import Rows
from shala_framework.plugin import Preview
from shala_framework.report.data_uris import media_of
from shala_framework.report.latent_map import plane
from shala_framework.report.page import Report, spec_as_toml
from shala_framework.report.saved_evaluations import read_evaluation
from shala_framework.report.walks import traverse
from shala_framework.spec import Spec, read_spec, structure, unstructure
from shala_framework.training.plan import TrainingPlan

pytestmark = pytest.mark.long


class Page(HTMLParser):
    """Collects elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text.append(data)


def status(entry, *arguments):
    with pytest.raises(SystemExit) as leaving:
        entry([str(argument) for argument in arguments])
    return leaving.value.code


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, two_spec_text):
    """The folder of a run with an evaluation; a fifth of its rows lacks a modality."""
    home = tmp_path_factory.mktemp("home")
    (home / "two.toml").write_text(two_spec_text)
    overrides = ("evaluate.at_end=true", "train.autoencoder.log_every_steps=10")
    with contextlib.chdir(home):
        assert status(main_run, "two.toml", *[text for o in overrides for text in ("--set", o)]) == 0
    return home / "runs" / "two"


@pytest.fixture
def run(evaluated, two_spec):
    """A copy of that run, in the working directory."""
    return Path(shutil.copytree(evaluated, "runs/two"))


def test_a_run_ends_with_a_page_that_needs_nothing_else(run, capsys):
    """Every address is inside the page, every section exists, and curves, tables and spec agree with the files."""
    text = (run / "report.html").read_text()
    page = Page(text)
    sources = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    sections = {a["id"] for tag, a in page.elements if tag == "section"}
    assert {
        "run",
        "joint",
        "cross",
        "interpolation",
        "traversal",
        "latent",
        "evaluation",
        "curves",
        "data",
        "again",
    } <= sections
    assert {source[1:] for source in sources if source[0] == "#"} <= sections
    shown = " ".join(page.text)
    for words in (
        "SYNTHETIC STAND-IN DATA",
        "not recorded",
        "joint samples",
        "shala-run",
        "given first",
        "true second",
    ):
        assert words in shown
    assert all(a.get("alt") for tag, a in page.elements if tag == "img")
    notes = read_evaluation(run / "evaluation" / "validation.json").notes
    assert notes
    assert all(note in page.text for note in notes)
    curves = json.loads(re.search(r"const curves = (.*);\n", text)[1])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = next(chart for chart in curves if chart["title"] == "autoencoder: loss")["series"][0]
    assert loss["y"] == [line["loss"] for line in lines if line["stage"] == "autoencoder" and "loss" in line]
    again = next(piece for piece in page.text if piece.startswith("schema = 1"))
    Path("again.toml").write_text(again)
    asked = structure(json.loads((run / "spec.json").read_text())["spec"], Spec)
    decided = attrs.evolve(asked, train=TrainingPlan.read(run / "state").applied(asked.train))
    assert unstructure(read_spec(Path("again.toml")).spec) == unstructure(decided)
    before = text
    assert status(main, "report", run) == 0
    assert Page((run / "report.html").read_text()).elements[-1] == Page(before).elements[-1]


def test_names_from_the_data_are_text_and_nothing_else(run):
    model = load(run)
    hostile = "</script><img src=x onerror=alert(1)>'\""
    rows = Rows(
        x={name: torch.randn(40, 2) for name in model.names},
        presence=torch.ones(40, 2, dtype=torch.bool),
        keys=tuple(f"{hostile}{n}" for n in range(40)),
        labels=(hostile, None) * 20,
    )
    Report(model, run, rows, command=hostile).write()
    text = (run / "report.html").read_text()
    assert hostile not in text
    page = Page(text)
    assert hostile in "".join(page.text)
    assert not [a for _, a in page.elements if "onerror" in a]


def test_a_run_without_held_out_rows_has_a_page_too(run):
    text = Report(load(run), run, None).write().read_text()
    ids = {a.get("id") for _, a in Page(text).elements}
    assert "joint" in ids
    assert not ids & {"cross", "interpolation", "traversal", "latent"}


def test_media_are_what_the_preview_holds():
    frames = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    sound = np.sin(np.arange(800) / 10).astype(np.float32)
    clip, heard, read = media_of(Preview(frames=frames, sound=sound, sample_rate_hz=8_000, text="a < b"))
    assert clip.kind == "clip"
    assert clip.source.startswith("data:video/mp4;base64,")
    assert (read.kind, read.source) == ("words", "a < b")
    with wave.open(io.BytesIO(base64.b64decode(heard.source.partition(",")[2]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8_000, 1, 800)
        values = np.frombuffer(file.readframes(800), "<i2") / 32_767
    np.testing.assert_allclose(values, sound, atol=1e-4)
    (picture,) = media_of(Preview(frames=frames[:1]))
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))), frames[0]
    )
    assert media_of(None) == []


@pytest.mark.parametrize(("num_rows", "method"), [(2, "PCA"), (29, "PCA"), (60, "t-SNE")])
def test_the_plane_keeps_clusters_apart(num_rows, method):
    """Two distant clusters stay apart, and equal latents give equal maps."""
    torch.manual_seed(0)
    z_ND = torch.randn(num_rows, 5) * 0.1
    z_ND[num_rows // 2 :] += 10
    found, how = plane(z_ND)
    assert how == method
    assert found.shape == (num_rows, 2)
    assert np.array_equal(found, plane(z_ND)[0])
    halves = found[: num_rows // 2], found[num_rows // 2 :]
    gap = np.linalg.norm(halves[0].mean(0) - halves[1].mean(0))
    assert gap > 2 * max(np.linalg.norm(half - half.mean(0), axis=1).max() for half in halves)


def test_a_traversal_changes_one_principal_coordinate():
    """Positions lie at -2 to 2 deviations along each leading direction; all other coordinates are the sample's."""
    generator = torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
    scales = torch.tensor([3.0, 2.0, 1.0, 0.5])
    z = torch.randn(4_000, 4, generator=generator) * scales @ turn + 5
    start = z[7]
    found = traverse(z, start)
    assert found.z_KSD.shape == (3, 5, 4)
    torch.testing.assert_close(
        torch.tensor(found.shares), scales[:3].square() / scales.square().sum(), atol=0.02, rtol=0
    )
    for k in range(3):
        coordinates = (found.z_KSD[k] - z.mean(0)) @ turn.T  # rows of turn are the true directions
        own = (start - z.mean(0)) @ turn.T
        spread = coordinates[:, k].abs().sort().values / scales[k]
        torch.testing.assert_close(spread, torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0]), atol=0.2, rtol=0)
        others = [d for d in range(4) if d != k]
        torch.testing.assert_close(coordinates[:, others], own[others].expand(5, 3), atol=0.5, rtol=0)
    assert traverse(z[:5], start) is None
    assert traverse(torch.ones(20, 4), start) is None


def test_a_spec_in_toml_leaves_out_what_has_no_value(two_spec):
    spec = unstructure(read_spec(two_spec).spec)
    assert spec["data"]["cache"] is None
    written = tomli.loads(spec_as_toml(spec))
    assert "cache" not in written["data"]
    assert written["modality"]["first"] == {"plugin": "two-floats", "options": spec["modality"]["first"]["options"]}
