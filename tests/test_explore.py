"""Answers of the explore page, tested without a browser."""

import io
import json
import socket
import sys
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from shala_framework import DataError, load
from shala_framework.cli.main import main
from shala_framework.data.rows import load_rows
from shala_framework.report.explore import Request, answer, given_of, input_kind, panels_as_html

pytestmark = pytest.mark.long


@pytest.fixture
def tried(two_spec, finished_run):
    """A trained run and its held-out rows."""
    finished_run("runs/two")
    model = load("runs/two")
    rows = load_rows(sorted(str(path) for path in Path("runs/two/data").glob("validation-*.tar")), model.modalities)
    return model, rows


def test_nothing_given_is_joint_and_a_file_gives_the_others(tried):
    model, rows = tried
    panels, archive = answer(model, rows, Request(num_samples=2))
    assert [panel.title for panel in panels] == ["sample 1", "sample 2"]
    assert [cell.caption for cell in panels[0].cells] == ["first", "second"]
    Path("one.a").write_text("[3.5, 0.5]")
    panels, archive = answer(model, rows, Request(given={"first": Path("one.a")}, num_samples=3))
    assert [panel.title for panel in panels] == ["given", "sample 1", "sample 2", "sample 3"]
    assert [cell.caption for cell in panels[1].cells] == ["second"]
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert sorted(file.namelist()) == [f"{n:03d}.second.json" for n in range(3)]
    again = answer(model, rows, Request(given={"first": Path("one.a")}, num_samples=3))[1]
    other = answer(model, rows, Request(given={"first": Path("one.a")}, num_samples=3, seed=1))[1]
    contents = [
        [zipfile.ZipFile(io.BytesIO(data)).read(f"{n:03d}.second.json") for n in range(3)]
        for data in (archive, again, other)
    ]
    assert contents[0] == contents[1] != contents[2]
    assert "sample 3" in panels_as_html(panels)


def test_a_row_gives_what_is_asked_of_it_and_own_files_go_before(tried):
    model, rows = tried
    whole = int(torch.nonzero(rows.presence.all(1))[0])
    given = given_of(model, rows, Request(row=whole, from_row=("second",)))
    assert given.presence.tolist() == [[False, True]]
    assert torch.equal(given.x["second"][0], rows.x["second"][whole])
    Path("one.b").write_text("[3.5, 0.5]")
    own = given_of(model, rows, Request(given={"second": Path("one.b")}, row=whole, from_row=("second",)))
    assert own.presence.tolist() == [[False, True]]
    assert not torch.equal(own.x["second"][0], rows.x["second"][whole])
    assert given_of(model, rows, Request(row=whole)) is None


def test_a_given_modality_is_generated_on_request(tried):
    """The page then shows both versions, even if everything is given, and the archive has the model's."""
    model, rows = tried
    Path("one.a").write_text("[3.5, 0.5]")
    Path("one.b").write_text("[3.5, 0.5]")
    given = {"first": Path("one.a"), "second": Path("one.b")}
    panels, archive = answer(model, rows, Request(given=given, num_samples=1, impute=True))
    assert [[cell.caption for cell in panel.cells] for panel in panels] == [
        ["first", "second"],
        ["first, the model's version", "second, the model's version"],
    ]
    made = json.loads(zipfile.ZipFile(io.BytesIO(archive)).read("000.first.json"))
    x = model.generate(given=given)["first"][0, 0] + torch.tensor(model.modalities["first"].mean)
    torch.testing.assert_close(torch.tensor(made), x)


@pytest.mark.parametrize(
    ("fields", "typed", "kind"),
    [
        (("jpg", "png"), None, "picture"),
        (("wav", "mp4"), None, "sound"),
        (("mp4", "wav"), None, "clip"),
        (("left.png",), None, "picture"),
        (("npy",), None, "file"),
        (("txt",), {"txt": b""}, "typed"),
    ],
)
def test_each_kind_is_given_in_its_own_way(fields, typed, kind):
    """The first field says which; what can be typed has a text box."""
    assert input_kind(SimpleNamespace(fields=fields, typed=lambda text: typed)) == kind


def test_explore_says_what_is_wrong_before_it_loads_a_model(tried, capsys, monkeypatch):
    """Gradio that is not installed, and a port that is taken, are errors at once."""
    monkeypatch.setattr("shala_framework.run.loading.load", lambda *_, **__: pytest.fail("the model was loaded"))
    gradio = ModuleType("gradio")
    gradio.__spec__ = ModuleSpec("gradio", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for module, message in (
            (None, "shala explore needs Gradio"),
            (gradio, f"127.0.0.1, port {port}: Address already"),
        ):
            monkeypatch.setitem(sys.modules, "gradio", module)
            with pytest.raises(SystemExit) as leaving:
                main(["explore", "runs/two", "--port", port])
            assert leaving.value.code == 2
            assert message in capsys.readouterr().err


def test_what_cannot_be_done_is_reported(tried):
    model, rows = tried
    lacking = int(torch.nonzero(~rows.presence[:, 1])[0])
    whole = int(torch.nonzero(rows.presence.all(1))[0])
    Path("bad.a").write_text("[")
    for request, message in (
        (Request(given={"first": Path("bad.a")}), "expected a JSON array"),
        (Request(row=lacking, from_row=("second",)), "has no second"),
        (Request(row=whole, from_row=("first", "second")), "every modality is given"),
    ):
        with pytest.raises(DataError, match=message):
            answer(model, rows, request)
