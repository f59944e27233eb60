"""The shipped specs with the plugins that they name; skipped if these are not installed."""

import itertools
import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import av
import numpy as np
import pytest
import tomli
import torch

from shala_framework import load
from shala_framework.cli.main import dispatch
from shala_framework.data.rows import Rows, load_rows
from shala_framework.model import ShaLa
from shala_framework.spec import doubts, read_spec
from shala_framework.training.prior_stage import PriorTraining
from shala_framework.training.refinement import RefinerTraining
from shala_framework.training.stages import AutoencoderTraining

SPECS = sorted((Path(__file__).parent.parent / "specs").glob("*.toml"))
NTU = next(path for path in SPECS if path.stem == "ntu_rgb_skeleton")


def need_plugins(path: Path) -> None:
    """Skip the test if a plugin of the spec is not installed."""
    spec = tomli.loads(path.read_text())
    wanted = {table["plugin"] for table in spec["modality"].values()}
    wanted |= {spec["data"]["stand_in"]["dataset"]} if "stand_in" in spec["data"] else set()
    missing = wanted - {entry.name for entry in entry_points(group="shala.plugins")}
    if missing:
        pytest.skip(f"plugins not installed: {sorted(missing)}")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_shorter_run_that_a_spec_names_is_one(path, tmp_path, monkeypatch):
    """The settings fit together, and no schedule is longer than its stage."""
    need_plugins(path)
    named = [line for line in path.read_text().splitlines() if line.startswith("#     --set ")]
    monkeypatch.chdir(tmp_path)
    assert not doubts(read_spec(path, re.findall(r"--set (\S+)", " ".join(named))).spec)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_loads_builds_and_takes_a_step(path, tmp_path, monkeypatch):
    """With its stand-in, the spec is valid, builds a model, and every parameter has a finite gradient."""
    need_plugins(path)
    monkeypatch.chdir(tmp_path)
    loaded = read_spec(path)
    model = ShaLa.from_spec(loaded).build()
    x = {
        name: torch.randn((3, *m.shape)).to(m.dtype)
        if m.dtype.is_floating_point
        else torch.randint(0, 255 if m.dtype == torch.uint8 else 10, (3, *m.shape), dtype=m.dtype)  # tokens, classes
        for name, m in model.modalities.items()
    }
    presence = torch.ones(3, len(x), dtype=torch.bool)
    rows = Rows(x=x, presence=presence, keys=("a", "b", "c"), labels=(None,) * 3)
    stage = AutoencoderTraining(model.autoencoder, loaded.spec.train.autoencoder, torch.device("cpu"))
    loss, _ = stage.loss(rows, 0)
    loss.backward()
    for name, parameter in model.autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    from shala_framework.data.latent_store import latents_of

    store = latents_of(model.autoencoder, rows, torch.device("cpu"))
    prior_loss, _ = PriorTraining(model.prior, loaded.spec.prior, loaded.spec.train.prior, store).loss(
        torch.tensor([0, 1, 2]), 0
    )
    assert prior_loss.isfinite()
    if model.refiner.names:
        third = RefinerTraining(
            model.refiner, model.autoencoder, loaded.spec.refine, loaded.spec.train.refiner, torch.device("cpu")
        )
        for measure in third.measurements:
            measure([rows])
        assert third.loss(rows, 0)[0].isfinite()


def test_the_real_settings_stay_real():
    """The stand-in does not override values to which the spec sets the data set itself."""
    need_plugins(NTU)
    raw = tomli.loads(NTU.read_text())
    assert raw["modality"]["rgb"]["options"]["height"] == 64
    assert raw["modality"]["skeleton"]["options"]["bodies"] == 2
    assert raw["train"]["autoencoder"]["steps"] >= 100_000
    assert read_spec(NTU).spec.train.autoencoder.steps == raw["data"]["stand_in"]["set"]["train.autoencoder.steps"]


SMALL = {
    "data.in_memory": "true",
    "data.num_workers": "0",
    "modality.rgb.options.height": "32",
    "modality.rgb.options.width": "32",
    "modality.rgb.options.channels": "8",
    "modality.skeleton.options.frames": "16",
    "modality.skeleton.options.width": "32",
    "train.autoencoder.steps": "20",
    "train.autoencoder.warmup_steps": "2",
    "train.autoencoder.batch_size": "5",
    "train.prior.steps": "20",
    "train.prior.warmup_steps": "2",
    "train.prior.batch_size": "16",
    "train.refiner.steps": "4",
    "train.refiner.warmup_steps": "1",
    "train.refiner.batch_size": "5",
    "generate.num_joint": "2",
    "generate.num_rows": "5",
    "evaluate.at_end": "false",
}


@pytest.mark.real_data
@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_real_ntu_files_from_raw_to_samples(real_data, tmp_path, monkeypatch, capsys, in_memory):
    """`shala pack ntu` packs five real recordings, four without RGB; a run generates RGB for a skeleton-only row."""
    need_plugins(NTU)
    monkeypatch.chdir(tmp_path)

    def shala(*arguments: str) -> str:
        status = dispatch(arguments)
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out

    printed = shala("pack", "ntu", str(real_data / "ntu"), "shards", "--set", "protocol=none")
    assert "train: 5 samples (avi 1, cls 5, json 5, skeleton 5)" in printed
    overrides = {**SMALL, "data.train": "shards/train-*.tar", "data.validation": "[]", "data.in_memory": in_memory}
    if in_memory == "false":  # each step decodes whole films
        overrides |= {"train.autoencoder.steps": "3", "train.autoencoder.warmup_steps": "1", "train.refiner.steps": "2"}
    arguments = list(itertools.chain.from_iterable(("--set", f"{key}={value}") for key, value in overrides.items()))
    printed = shala("run", str(NTU), "--out", "run", *arguments)
    assert "SYNTHETIC" not in printed
    assert not (tmp_path / "run" / "SYNTHETIC_DATA.txt").exists()
    model = load("run")
    assert not model.synthetic
    given = tmp_path / "run" / "samples" / "given_skeleton"
    skeleton_only = given / "S001C003P008R002A058_0.rgb.mp4"
    with av.open(str(skeleton_only)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.stack(frames).shape == (16, 32, 32, 3)
    assert len(list(given.glob("*.rgb.mp4"))) == 5
    assert len(list((tmp_path / "run" / "samples" / "given_rgb").glob("*.npy"))) == 1  # one row has RGB
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    shala("sample", "run", "--given", f"skeleton={real_data}/ntu/S017C003P020R002A054.skeleton", "--num", "2")
    assert len(list(Path("samples/given_skeleton").glob("S017C003P020R002A054_*.rgb.mp4"))) == 2


COMBINATION = """\
schema = 1
name = "word_speech_pen"

[data]
train = "shards/train-*.tar"
validation = "shards/validation-*.tar"
in_memory = true

[modality.word]
plugin = "text"
options = { vocabulary_size = 300, max_tokens = 8 }

[modality.speech]
plugin = "audio"
options = { sample_rate_hz = 8000, clip_seconds = 0.64 }

[modality.pen]
plugin = "skeleton"
options = { frames = 8, joints = 1, dims = 2, centre = "none", bones = [] }
"""
FEW = {
    "data.in_memory": "true",
    "data.num_workers": "0",
    "train.autoencoder.steps": "6",
    "train.autoencoder.warmup_steps": "2",
    "train.autoencoder.batch_size": "8",
    "train.prior.steps": "6",
    "train.prior.warmup_steps": "2",
    "train.refiner.steps": "2",
    "train.refiner.warmup_steps": "1",
    "train.refiner.batch_size": "4",
    "generate.num_joint": "2",
    "generate.num_rows": "2",
    "evaluate.at_end": "false",
}
RAW = {  # data set, folder of real files, options for packing a few of them, smaller modalities
    "digits5": ("digits", ".", ("train=24", "validation=4", "test=4"), {}),
    "polymnist": ("polymnist", ".", ("train=24", "validation=4", "test=4"), {}),
    "polymnist_quadrant": (
        "polymnist-quadrant",
        ".",
        ("train=24", "validation=4", "test=4", "side=32"),
        {f"m{number}.options.{size}": "32" for number in range(3) for size in ("height", "width")},
    ),
    "nw_ucla_skeleton_text": ("nw-ucla", "nw_ucla", (), {}),
    "cub_image_caption": ("cub", "cub10", ("captions=1",), {"image.options.height": "32", "image.options.width": "32"}),
    "covid_cxr_notes": (
        "folder",
        "covid_cxr_notes",
        (
            *("ignore_folders=true", "table=pairs.csv", "key_column=image", "group_column=patientid"),
            *('text_columns=["clinical_notes"]', "label_column=finding", 'stem_ends_at="last dot"'),
        ),
        {"xray.options.height": "32", "xray.options.width": "32"},
    ),
    "ucf101_video_audio": (
        "ucf101",
        "ucf101",
        ('split="none"',),
        {"video.options.height": "32", "video.options.width": "32", "sound.options.clip_seconds": "1.0"},
    ),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", [*RAW, "word_speech_pen"])
def test_real_files_from_pack_to_samples_of_every_modality(real_data, tmp_path, monkeypatch, capsys, name):
    """Raw files become shards, a model and generated files of each modality, also with a spec that is not shipped."""
    spec = next((path for path in SPECS if path.stem == name), tmp_path / "own.toml")
    (tmp_path / "own.toml").write_text(COMBINATION)
    need_plugins(spec)
    monkeypatch.chdir(tmp_path)
    dataset, folder, options, smaller = RAW[name] if name in RAW else RAW["digits5"]

    def shala(*arguments: str) -> None:
        status = dispatch(arguments)
        assert status == 0, capsys.readouterr().err

    shala("pack", dataset, str(real_data / folder), "shards", *(a for option in options for a in ("--set", option)))
    validation = "shards/validation-*.tar" if list(Path("shards").glob("validation-*")) else "[]"
    settings = {**FEW, "data.train": "shards/train-*.tar", "data.validation": validation}
    settings |= {f"modality.{key}": value for key, value in smaller.items()}
    shala(
        "run", str(spec), "--out", "run", *(a for key, value in settings.items() for a in ("--set", f"{key}={value}"))
    )
    names = list(read_spec(spec).spec.modality)
    files = [path.name for path in (tmp_path / "run" / "samples" / "joint").iterdir()]
    for modality in names:
        assert [file for file in files if file.startswith(f"000.{modality}.")], f"no joint sample of {modality}"
        assert (tmp_path / "run" / "samples" / f"given_{modality}.png").exists()


@pytest.mark.real_data
def test_a_silent_clip_gets_a_sound_that_plays(real_data, tmp_path, monkeypatch, capsys):
    """Real UCF101 clips, some of them silent: missing sound is generated from the pictures."""
    spec = next(path for path in SPECS if path.stem == "ucf101_video_audio")
    need_plugins(spec)
    monkeypatch.chdir(tmp_path)

    def shala(*arguments: str) -> None:
        status = dispatch(arguments)
        assert status == 0, capsys.readouterr().err

    dataset, folder, _, smaller = RAW[spec.stem]
    shala("pack", dataset, str(real_data / folder), "shards", "--set", 'split="none"')
    (shard,) = Path("shards").glob("*.tar")
    settings = {**FEW, "data.train": str(shard), "data.validation": "[]", "generate.num_rows": "8"}
    settings |= {f"modality.{key}": value for key, value in smaller.items()}
    overrides = [a for key, value in settings.items() for a in ("--set", f"{key}={value}")]
    shala("run", str(spec), "--out", "run", *overrides)
    rows = load_rows([str(shard)], load("run").modalities)
    heard = {key for key, has in zip(rows.keys, rows.presence[:, 1].tolist(), strict=True) if has}
    assert heard == {key for key in rows.keys if "ApplyEyeMakeup" in key}
    assert rows.presence[:, 0].all()
    made = Path("run/samples/given_video").glob("*.sound.wav")
    silent = [path for path in made if "ApplyEyeMakeup" not in path.name]
    assert len(silent) == len(rows) - len(heard) == 5
    for path in silent:
        with av.open(str(path)) as container:
            sound = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
            assert container.streams.audio[0].rate == 16_000
        assert len(sound) == 16_000
        assert sound.std() > 0
