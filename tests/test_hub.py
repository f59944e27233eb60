"""Models on the Hugging Face Hub, for which a local server stands in."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from hub_server import FakeHub

import shala_framework as shala
from shala_framework import CheckpointError, DataError
from shala_framework.cli.main import dispatch
from shala_framework.run.hub import parse_hub_name
from shala_framework.run.pushing import push

NAME = "me/two"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, with a cache of its own and a token that may write."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setenv("HF_TOKEN", "writer")
    with FakeHub().running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def call(capsys, *words):
    status = dispatch([str(word) for word in words])
    return status, *capsys.readouterr()


@pytest.mark.long
def test_a_pushed_run_is_loaded_by_its_name(hub, finished_run, tmp_path, capsys):
    """Checkpoints, spec.json and card are pushed and nothing else; the loaded model and its verbs are the run's."""
    folder = finished_run(tmp_path / "r")
    status, out, _ = call(capsys, "push", folder, f"hf://{NAME}")
    assert (status, out.strip()) == (0, f"{hub.url}/{NAME}")
    assert NAME in hub.private
    assert set(hub.files(NAME)) == {"autoencoder.safetensors", "prior.safetensors", "spec.json", "README.md"}
    for name, content in hub.files(NAME).items():
        assert (content == (folder / name).read_bytes()) == (name != "README.md")
    card = hub.files(NAME)["README.md"].decode()
    assert 'model = shala.load("hf://me/two")\n' in card
    assert "shala sample hf://me/two --num 16 --out samples" in card
    assert str(folder) not in card.partition("## Use")[2]
    own, loaded = shala.load(folder), shala.load(f"hf://{NAME}")
    assert loaded.stages == own.stages
    drawn = [model.generate(3, seed=5)["first"] for model in (own, loaded)]
    assert torch.equal(*drawn)
    status, out, _ = call(capsys, "sample", f"hf://{NAME}", "--num", 2, "--out", tmp_path / "drawn")
    assert (status, (tmp_path / "drawn" / "manifest.json").is_file()) == (0, True)
    status, _, err = call(capsys, "evaluate", f"hf://{NAME}")
    assert status == 2
    assert "fetch it first: hf download me/two --local-dir FOLDER" in err


@pytest.mark.long
def test_a_revision_and_the_cache_without_network(hub, finished_run, tmp_path, monkeypatch):
    """An earlier commit has the model of then; what was fetched loads without network, and nothing else does."""
    folder = finished_run(tmp_path / "r")
    assert dispatch(["push", str(folder), f"hf://{NAME}"]) == 0
    first = hub.repositories[NAME][-1]["id"]
    shutil.copytree(folder, tmp_path / "stage_1")
    (tmp_path / "stage_1" / "prior.safetensors").unlink()
    assert dispatch(["push", str(tmp_path / "stage_1"), f"hf://{NAME}"]) == 0
    assert "prior.safetensors" not in hub.files(NAME)  # it would be another model's
    assert sorted(shala.load(f"hf://{NAME}").stages) == ["autoencoder"]
    assert sorted(shala.load(f"hf://{NAME}@{first}").stages) == ["autoencoder", "prior"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's attempts
    assert sorted(shala.load(f"hf://{NAME}").stages) == ["autoencoder"]
    assert sorted(shala.load(f"hf://{NAME}@{first}").stages) == ["autoencoder", "prior"]
    with pytest.raises(CheckpointError, match=r"hf://me/other: cannot reach http://127.0.0.1:9, and its files are not"):
        shala.load("hf://me/other")
    with pytest.raises(CheckpointError, match=r"cannot reach http://127.0.0.1:9"):
        push(folder, parse_hub_name(f"hf://{NAME}"))


@pytest.mark.long
def test_what_the_hub_gives_is_verified(hub, finished_run, tmp_path):
    """A changed file is refused as in any folder; a pickled file is not fetched."""
    folder = finished_run(tmp_path / "r")
    assert dispatch(["push", str(folder), f"hf://{NAME}"]) == 0
    files = hub.files(NAME)
    damaged = bytearray(files["prior.safetensors"])
    damaged[-1] ^= 1
    hub.commit(NAME, {**files, "prior.safetensors": bytes(damaged), "pytorch_model.bin": b"pickle"})
    with pytest.raises(CheckpointError, match="damaged"):
        shala.load(f"hf://{NAME}")
    cached = {path.name for path in Path(sys.modules["huggingface_hub.constants"].HF_HUB_CACHE).rglob("*")}
    assert "prior.safetensors" in cached
    assert "pytorch_model.bin" not in cached
    (folder / "prior.safetensors").write_bytes(bytes(damaged))
    with pytest.raises(CheckpointError, match="damaged"):
        push(folder, parse_hub_name(f"hf://{NAME}"))


@pytest.mark.long
def test_a_token_that_may_not_write_is_refused(hub, finished_run, tmp_path, monkeypatch, capsys):
    """The message says what to do; a run without a model card is pushed without one, and that is said."""
    monkeypatch.setenv("HF_TOKEN", "reader")
    folder = finished_run(tmp_path / "r")
    (folder / "README.md").unlink()
    status, _, err = call(capsys, "push", folder, f"hf://{NAME}")
    assert status == 2
    assert f"{folder} has no model card, README.md; `shala report {folder}` writes one" in err
    assert f"error: hf://{NAME}: {hub.url} refused: " in err
    assert "log in with `hf auth login`" in err
    assert NAME not in hub.repositories


def test_what_is_not_there_is_named(hub, tmp_path, monkeypatch, capsys):
    """A repository, a revision, a model in it, a run to push, the right to write, and the library."""
    with pytest.raises(CheckpointError, match=r"hf://me/none: expected a repository that you may use on http://127"):
        shala.load("hf://me/none")
    hub.commit("me/other", {"README.md": b"another library's"})
    with pytest.raises(CheckpointError, match=r"hf://me/other is no model of shala_framework: it has no autoencoder"):
        shala.load("hf://me/other")
    with pytest.raises(CheckpointError, match=r"hf://me/other@v9: the repository has no revision 'v9'"):
        shala.load("hf://me/other@v9")
    (tmp_path / "empty").mkdir()
    status, _, err = call(capsys, "push", tmp_path / "empty", f"hf://{NAME}")
    assert status == 2
    assert "no checkpoint at" in err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"hf://me/two needs the package huggingface_hub.*'shala-framework\[hub\]'"):
        shala.load(f"hf://{NAME}")


@pytest.mark.parametrize(
    "name",
    ["hf://two", "hf://me/two/three", "hf://me/../two", "hf://me/two@", "hf://me/two@../x", "hf:/me/two", "hf://"],
)
def test_a_wrong_name_says_what_is_expected(name):
    """No name of another form reaches the network or a path."""
    with pytest.raises(DataError, match="expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION, such as"):
        parse_hub_name(name)
