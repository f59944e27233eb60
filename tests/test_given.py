"""What a person gives: texts as they are typed, files, and tensors."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_runs import run

from shala_framework import DataError, load, rows
from shala_framework.cli.main import main
from shala_framework.data.rows import load_rows
from shala_framework.model.given import field_of

pytestmark = pytest.mark.long


@pytest.fixture
def typed_run(two_spec):
    """A run whose first modality can be typed, with a loaded model."""
    folder = run(two_spec, "r", "modality.first.plugin=typed-floats")
    return folder, load(folder)


def test_given_takes_text_where_a_modality_can_be_typed(typed_run, capsys):
    """Text gives the samples of the file with the same content; a file is one where it exists or @ says so."""
    folder, _ = typed_run
    Path("one.a").write_text("[3.5, 0.25]")
    Path("odd").write_text("[3.5, 0.25]")

    def sample(value, *more):
        with pytest.raises(SystemExit) as leaving:
            main(["sample", str(folder), "--given", f"first={value}", "--num", "2", "--out", "s", "--json", *more])
        out, err = capsys.readouterr()
        if leaving.value.code:
            return err
        made = json.loads(out)
        assert made["given"] == {"first": value}
        return [Path("s", entry["files"]["second"][0]).read_text() for entry in made["samples"]], err

    from_file, said = sample("one.a")
    assert "the text" not in said
    assert sample("@one.a")[0] == from_file
    from_text, said = sample("3.5, 0.25")
    assert from_text == from_file
    assert "given first: the text '3.5, 0.25', which the model reads as '3.5, 0.2'\n" in said
    assert "reads as" not in sample("3.5, 0.0")[1]
    assert sample(" odd") != from_file
    for value, message in (
        ("absent.a", "expected a file ending in one of ['a'], got no such file; start the value with a space if it is"),
        ("@3.5, 0.25", "--given: first=3.5, 0.25: expected a file ending in one of ['a'], got one ending in .25"),
        ("odd", "a file of this name is here, but it ends in none of ['a']; rename it to give the file, or start the"),
        ("a, b", "--given: first='a, b': field 'a': expected a JSON array"),
        ("@@1", "--given: first='@1': field 'a': expected a JSON array"),
        (" ", "expected a file ending in one of ['a'], or a text, got nothing"),
        ("x" * 5_000, "expected a JSON array"),
    ):
        assert message in sample(value)


def test_a_given_modality_that_is_wanted_is_generated(typed_run, capsys):
    """Its files hold what the model decodes from the latent, not the copy of what was given, and a note says so."""
    folder, model = typed_run
    for given in (["first=3.5, 0.5"], ["first=3.5, 0.5", "second=@one.b"]):
        Path("one.b").write_text("[0.5, 0.5]")
        options = [part for value in given for part in ("--given", value)]
        with pytest.raises(SystemExit) as leaving:
            main(["sample", str(folder), *options, "--want", "first", "--num", "3", "--out", "s", "--json"])
        assert leaving.value.code == 0
        out, err = capsys.readouterr()
        assert "first is given and wanted: its files hold the model's own version of it" in err
        files = [entry["files"] for entry in json.loads(out)["samples"]]
        assert [list(of) for of in files] == [["first"]] * 3
        made = [json.loads(Path("s", of["first"][0]).read_text()) for of in files]
        x = {"first": "3.5, 0.5"} | ({"second": Path("one.b")} if len(given) > 1 else {})
        expected = model.generate(3, given=x)["first"][0] + torch.tensor(model.modalities["first"].mean)
        torch.testing.assert_close(torch.tensor(made), expected)


def test_files_of_an_earlier_call_are_named(typed_run, capsys):
    """A second call into a folder says which files are not its own; the manifest lists its own alone."""
    folder, _ = typed_run

    def sample(num):
        with pytest.raises(SystemExit) as leaving:
            main(["sample", str(folder), "--num", str(num), "--out", "s", "--json"])
        assert leaving.value.code == 0
        out, err = capsys.readouterr()
        assert json.loads(Path("s/manifest.json").read_text()) == json.loads(out)
        return len(json.loads(out)["samples"]), err

    assert "earlier" not in sample(3)[1]
    assert "earlier" not in sample(3)[1]
    count, said = sample(1)
    assert count == 1
    assert "6 files of an earlier call stay in s, such as joint/001.first.json; manifest.json lists only the" in said
    assert "6 files of an earlier call stay" in sample(1)[1]


def test_python_takes_texts_and_files(typed_run):
    """A str is text, a Path a file, a list several rows; each gives what its tensor gives."""
    _, model = typed_run
    Path("one.a").write_text("[3.5, 0.25]")
    x = model.modalities["first"].read({"a": b"[3.5, 0.25]"})
    for given in ("3.5, 0.25", Path("one.a"), ["3.5, 0.25"], x[None]):
        assert torch.equal(
            model.generate(2, given={"first": given})["second"], model.generate(2, given={"first": x[None]})["second"]
        )
    z = model.embed({"first": ["3.5, 0.25", Path("one.a"), "1, 2"]})
    torch.testing.assert_close(z[0], z[1])
    assert not torch.allclose(z[0], z[2], atol=1e-3)
    assert torch.equal(model.read({"first": "3.5, 0.25"})["first"], x[None])
    for given, message in (
        ({"second": "1, 2"}, "expected a tensor or the Path of a file for 'second', because this modality cannot be"),
        (
            {"first": 3},
            "expected a tensor of 'first', a text, the Path of a file, or a list of texts or paths, got int",
        ),
        ({"first": []}, "or a list of texts or paths, got list"),
        ({"third": "1, 2"}, "modalities among"),
        ({"first": ["1, 2"] * 3, "second": x[None]}, "same number of rows"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(given=given)
    with pytest.raises(DataError, match=r"absent\.a: cannot be read"):
        model.generate(given={"first": Path("absent.a")})


@pytest.mark.parametrize(
    ("fields", "name", "field"),
    [
        (("jpg", "png"), "a.PNG", "png"),
        (("left.png",), "a.left.png", "left.png"),
        (("left.png",), "a.png", "left.png"),
        (("left.png",), "a.webp", "left.png"),
        (("left.png", "right.png"), "a.right.png", "right.png"),
        (("left.png", "right.png"), "a.png", "left.png"),
        (("wav", "mp4"), "a.mp3", "wav"),
        (("wav", "mp4"), "a.webm", "mp4"),
        (("wav",), "a.png", None),
        (("npy",), "png", None),
        (("npy",), "npy", None),
        (("npy",), "a.txt", None),
    ],
)
def test_a_file_of_a_persons_own_needs_no_new_name(fields, name, field):
    """Its field is the one that its name ends in, else one of its last extension, else one of its kind of media."""
    modality = SimpleNamespace(fields=fields)
    assert field_of(modality, Path("folder.jpg") / name) == field


def test_rows_of_a_split_are_iterated(typed_run):
    """In the order of the shards, with keys and labels, without missing modalities; an absent split is named."""
    folder, model = typed_run
    found = list(rows(folder, "validation"))
    loaded = load_rows(sorted(str(path) for path in folder.glob("data/validation-*.tar")), model.modalities)
    assert [(row.key, row.label) for row in found] == list(zip(loaded.keys, loaded.labels, strict=True))
    assert {len(row.x) for row in found} == {1, 2}
    for n, row in enumerate(found):
        assert list(row.x) == [name for name, there in zip(model.names, loaded.presence[n], strict=True) if there]
        assert all(torch.equal(value, loaded.x[name][n]) for name, value in row.x.items())
    again = next(rows(model, "train", folder=folder))
    assert again.key == "train_0000"
    with pytest.raises(DataError, match=r"the spec has no data\.test"):
        next(rows(folder, "test"))
    with pytest.raises(DataError, match="expected the folder of the run, because it trained on a stand-in"):
        next(rows(model))
