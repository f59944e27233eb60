"""README.md of a run: its statements about the model, and the escaping of text from data."""

import re
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt  # a dependency of rich, and so of the core
from two_floats import TwoFloats

import shala_framework
from shala_framework import load
from shala_framework.cli.main import main, main_run
from shala_framework.report.card import CARD_FILE, fenced, model_card, plain
from shala_framework.report.saved_evaluations import read_evaluation
from shala_framework.report.tables import show

pytestmark = pytest.mark.long

HOSTILE = (
    "</table><img src=x onerror=alert(1)> [go](https://evil.example) `a` *b* _c_ | d\n# e https://evil.example ![](x)"
)


def run_verb(entry, *arguments):
    with pytest.raises(SystemExit) as leaving:
        entry([str(argument) for argument in arguments])
    assert leaving.value.code == 0


def rendered(card):
    """Return the card's body as HTML; GitHub and others leave out the front matter."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])


def test_a_run_ends_with_a_card_whose_figures_and_code_are_right(two_spec):
    """Stand-in, rows, options, steps and figures are the run's; its code loads the model and samples from it."""
    run_verb(main_run, two_spec, "--set", "evaluate.at_end=true")
    folder = Path("runs/two")
    card = (folder / CARD_FILE).read_text()
    assert "**SYNTHETIC STAND-IN DATA.**" in card
    assert "| train | 200 | 200 | 156 |" in card
    assert 'field = "b"\nwidth = 32' in card
    assert "| steps | autoencoder 60, prior 40 |" in card
    assert re.search(r"\| wall time \| .*evaluation \d+ s \|", card)
    found = read_evaluation(folder / "evaluation" / "validation.json")
    assert f"validation: {found.rows} held-out rows, 2 seeds of samples" in card
    assert f"| diffusion | {plain(show(found.joint[1].coherence))} |" in card
    assert all(plain(note) in card for note in found.notes)
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    made = {}
    exec(compile(code, CARD_FILE, "exec"), made)
    assert made["joint"]["first"].shape == (16, 2)
    assert made["samples"].shape == (16, 4, 2)
    assert made["z"].shape == (16, 4)
    (command,) = re.findall(r"```bash\nshala (.*)\n```", card)
    run_verb(main, *command.split())


def test_a_card_is_written_again_with_the_report(two_spec):
    """The card is complete without an evaluation and says that there is none. It overwrites changes by hand."""
    run_verb(main_run, two_spec)
    path = Path("runs/two") / CARD_FILE
    before = path.read_text()
    assert "was not evaluated" in before
    path.write_text("my notes")
    run_verb(main, "report", "runs/two")
    assert [line for line in path.read_text().splitlines() if "report" not in line] == [
        line for line in before.splitlines() if "report" not in line
    ]


def test_text_from_data_is_text_and_nothing_else(two_spec):
    """No element, link, picture, heading or cell comes from a fact, a path or a source, and no fence ends early."""
    run_verb(main_run, two_spec)
    data = {
        "sources": {"train": HOSTILE},
        "head": ["", HOSTILE],
        "lines": [["train", HOSTILE]],
        "left_out": [(HOSTILE, 1, [])],
    }
    html = rendered(
        model_card(load("runs/two"), Path("runs/`a` $(b)'"), facts=[(HOSTILE, HOSTILE)], data=data, evaluations={})
    )
    assert set(re.findall(r'(?:href|src)="([^"]*)"', html)) == {"https://arxiv.org/abs/2508.17376"}
    assert "<img" not in html
    assert html.count("<h1>") == 1
    assert "<em>" not in html
    assert html.count("</table>") == 3  # tables of rows, modalities and training
    assert "&lt;img src=x onerror=alert(1)&gt; [go](https" in html
    assert """shala sample 'runs/`a` $(b)'"'"''""" in html.replace("&quot;", '"')
    assert rendered("---\n---\n" + fenced("```\n# x", "toml")).count("<h1>") == 0


def test_training_from_python_writes_a_card_too(tmp_path):
    """A run from Python gets a card with its steps and the source of its rows; out=None writes no file."""
    x = {"first": torch.randn(64, 2), "second": torch.randn(64, 2)}
    model = shala_framework.ShaLa({name: TwoFloats() for name in x}, latent_dim=2, feature_dim=8, hidden_dim=8)
    shala_framework.train(model, x, steps=4, batch_size=16, out=tmp_path / "run")
    card = (tmp_path / "run" / CARD_FILE).read_text()
    assert card.split("---\n", 2)[2].lstrip().startswith("<!--")
    assert "\n# run\n" in card
    assert "| train | 64 | 64 | 64 |" in card
    assert "| steps | autoencoder 4, prior 4 |" in card
    assert "was not evaluated" in card
    assert 'shala.load("run")' in card
