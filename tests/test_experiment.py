"""The whole pipeline on a fake modality of two floats, because the core needs no real one."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from small_runs import CHECKPOINTS, StopAt, metric_lines, run, without_rates
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework import CheckpointError, DataError, load
from shala_framework.cli.main import dispatch, main_run
from shala_framework.data import presence
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.rows import fit_to_shards, load_rows
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.support.progress import Silent
from shala_framework.training import steps
from shala_framework.training.loop import TrainingError
from shala_framework.training.metrics import MetricsFile

pytestmark = pytest.mark.long


def test_a_run_leaves_everything(two_spec, capsys):
    """One command writes checkpoints, metrics, samples next to real data, sheets, and the synthetic warning."""
    with pytest.raises(SystemExit) as leaving:
        main_run([str(two_spec)])
    assert leaving.value.code == 0
    captured = capsys.readouterr()
    assert "SYNTHETIC STAND-IN DATA" in captured.err
    folder = Path("runs/two")
    assert "two-floats-made" in (folder / "SYNTHETIC_DATA.txt").read_text()
    samples = sorted(str(p.relative_to(folder / "samples")) for p in (folder / "samples").rglob("*.*"))
    assert {"joint.png", "given_first.png", "given_second.png", "joint/002.png", "joint/002.first.json"} <= set(samples)
    assert sum(name.endswith("_0.png") for name in samples) == 4
    assert len(list((folder / "samples" / "given_first").glob("*.second.json"))) == 2
    stages = {line["stage"] for line in metric_lines(folder)}
    assert stages == {"autoencoder", "prior", "summary"}
    assert [line["step"] for line in metric_lines(folder) if "validation_elbo" in line] == [20, 40, 60]
    described = json.loads((folder / "spec.json").read_text())
    assert described["stand_in_used"] is True
    assert described["spec"]["train"]["prior"]["steps"] == 40
    assert not list(folder.rglob("*.partial"))


def test_same_seed_gives_the_same_bytes(two_spec):
    """Two runs give bit-identical checkpoints and metrics; another seed does not."""
    one, two = run(two_spec, "one"), run(two_spec, "two")
    other = run(two_spec, "three", "seed=1")
    for name in CHECKPOINTS:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    assert without_rates(one) == without_rates(two)


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_interrupted_runs_end_as_if_they_had_not_been(two_spec, in_memory):
    """A run that was stopped in either stage and resumed ends with the same bytes as an undisturbed one."""
    whole = run(two_spec, "whole", f"data.in_memory={in_memory}")
    for stage, step in (("autoencoder", 33), ("prior", 27)):
        with pytest.raises(KeyboardInterrupt):
            run(two_spec, "cut", f"data.in_memory={in_memory}", reporter=StopAt(stage, step))
    cut = run(two_spec, "cut", f"data.in_memory={in_memory}")
    for name in CHECKPOINTS:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    assert without_rates(whole) == without_rates(cut)


def test_a_finished_run_is_not_trained_again(two_spec, finished_run):
    """The same command only rewrites the samples, possibly other ones."""
    folder = finished_run("r")
    before = [(folder / name).stat().st_mtime_ns for name in CHECKPOINTS]
    run(two_spec, "r", "generate.num_joint=5")
    assert [(folder / name).stat().st_mtime_ns for name in CHECKPOINTS] == before
    assert len(list((folder / "samples" / "joint").glob("*.png"))) == 5


def test_a_folder_of_another_spec_is_refused(two_spec, finished_run, capsys):
    """The message has both values of every difference, and nothing in the folder changes."""
    folder = finished_run("r")
    before = (folder / "spec.json").read_bytes()
    with pytest.raises(CheckpointError, match="latent_dim: 4 in the folder, 5 now") as refusal:
        run(two_spec, "r", "posterior.latent_dim=5", "train.autoencoder.steps=61")
    assert "train.autoencoder.steps: 60 in the folder, 61 now" in str(refusal.value)
    assert (folder / "spec.json").read_bytes() == before
    other = Path("other")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no run"):
        run(two_spec, "other")


def test_a_loaded_model_generates_what_was_trained(two_spec, finished_run):
    """load returns a model whose samples, shapes, seeds and embeddings are as documented."""
    folder = finished_run("r")
    model = load(folder)
    assert model.synthetic
    assert model.modalities["first"].state()["mean"][0] > 2  # the state that `fit` learned is restored
    joint = model.generate(16)
    assert {name: tuple(x.shape) for name, x in joint.items()} == {"first": (16, 2), "second": (16, 2)}
    torch.testing.assert_close(model.generate(3)["first"], joint["first"][:3])  # samples do not depend on the batch
    assert not torch.allclose(model.generate(3, seed=1)["first"], joint["first"][:3], atol=1e-2)
    given = {"second": torch.randn(5, 2)}
    conditional = model.generate(4, given=given, guidance_scale=1.5)
    assert tuple(conditional["first"].shape) == (5, 4, 2)
    assert not torch.equal(model.generate(given=given, draw=True)["first"], model.generate(given=given)["first"])
    assert tuple(model.embed(given).shape) == (5, 4)
    model.save("copy")
    for name in CHECKPOINTS:
        assert (folder / name).read_bytes() == (Path("copy") / name).read_bytes()


def test_modalities_keep_the_order_of_the_spec(two_spec):
    """For any names, a loaded model computes what the trained one did, and another order is another spec."""
    text = two_spec.read_text()
    second = text[text.index("[modality.second]") : text.index("[posterior]")]
    turned = text.replace(second, "").replace("[modality.first]", f"{second}[modality.first]")
    two_spec.write_text(turned)
    experiment = Experiment(read_spec(two_spec), Path("r"))
    experiment.run()
    loaded = load("r")
    assert loaded.names == ("second", "first")
    given = {"first": torch.randn(5, 2)}
    assert torch.equal(loaded.embed(given), experiment.model.embed(given))
    assert torch.equal(loaded.generate(given=given)["second"], experiment.model.generate(given=given)["second"])
    two_spec.write_text(text)
    with pytest.raises(CheckpointError, match=r"order of the modality tables: \['second', 'first'\] in the folder"):
        run(two_spec, "r")


def test_new_sampling_settings_apply_to_the_loaded_model(two_spec, finished_run):
    """A finished run with new [generate] settings samples with them from then on, with the same weights."""
    folder = finished_run("r")
    before = load(folder)
    run(two_spec, "r", "generate.guidance_scale=3.0")
    after = load(folder)
    assert (before.spec.generate.guidance_scale, after.spec.generate.guidance_scale) == (1.0, 3.0)
    assert torch.equal(before.generate(2)["first"], after.generate(2)["first"])
    given = {"second": torch.randn(2, 2)}
    assert not torch.equal(before.generate(given=given)["first"], after.generate(given=given)["first"])
    (folder / "spec.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"spec\.json is damaged"):
        load(folder)


def test_wrong_arguments_are_named(two_spec, finished_run):
    """Errors of generate and embed say what they expected."""
    model = load(finished_run("r"))
    for call, message in (
        (lambda: model.generate(0), "num_samples >= 1"),
        (lambda: model.generate(1, num_steps=0), "num_steps >= 2"),
        (lambda: model.generate(given={"third": torch.zeros(1, 2)}), "modalities among"),
        (lambda: model.generate(given={"first": torch.zeros(1, 3)}), r"shape \('N', 2\), got \(1, 3\)"),
        (lambda: model.embed({"first": torch.zeros(1, 2), "second": torch.zeros(2, 2)}), "same number of rows"),
        (
            lambda: model.embed({"first": torch.zeros(3, 2)}, presence=torch.ones(3, 1, dtype=torch.bool)),
            r"presence of torch.bool \(3, 2\), got torch.bool \(3, 1\)",
        ),
        (lambda: model.generate(given={"first": torch.zeros(1, 2)}, prior="mixture"), "with given"),
        (lambda: model.generate(prior="posterior"), "without given modalities"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_damaged_checkpoints_are_named(two_spec, finished_run):
    """Missing, truncated and foreign files give a CheckpointError with the path."""
    folder = finished_run("r")
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        load("nowhere")
    content = (folder / CHECKPOINTS[0]).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a checkpoint at all"):
        (folder / CHECKPOINTS[0]).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"autoencoder\.safetensors is damaged"):
            load(folder)
    shutil.copy(folder / "state" / "latents" / "0-of-1" / "000000.safetensors", folder / CHECKPOINTS[0])
    with pytest.raises(CheckpointError, match="no checkpoint of a model"):
        load(folder)


def test_sample_verb_writes_files(two_spec, finished_run, capsys, command_environment):
    """`shala sample` generates from given files and jointly; bad files give one message and status 2."""
    folder = finished_run("r")
    Path("one.a").write_text("[3.5, 0.5]")
    Path("bad.a").write_text("[")
    Path("one.b").write_text("[3.5, 0.5]")

    def shala(*arguments: str) -> subprocess.CompletedProcess:
        code = "from shala_framework.cli.main import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=command_environment,
            capture_output=True,
            text=True,
            check=False,
        )

    capsys.readouterr()
    done = shala("sample", str(folder), "--given", "first=one.a", "--num", "3", "--out", "s")
    assert done.returncode == 0, done.stderr
    written = sorted(p.name for p in Path("s/given_first").iterdir())
    assert written == sorted(f"one_{i}.{e}" for i in range(3) for e in ("png", "second.json"))
    manifest = json.loads(Path("s/manifest.json").read_text())
    assert manifest["given"] == {"first": "one.a"}
    assert [entry["row"] for entry in manifest["samples"]] == ["one"] * 3
    assert manifest["num"] == 3
    assert not {"num_joint", "num_rows", "num_samples"} & manifest["settings"].keys(), "they are of a run's own samples"
    listed = [Path("s") / file for entry in manifest["samples"] for file in entry["files"]["second"]]
    assert sorted(p.name for p in listed) == sorted(f"one_{i}.second.json" for i in range(3))
    assert all(path.exists() for path in listed)
    assert dispatch(("sample", str(folder), "--num", "2", "--out", "j", "--want", "second", "--json")) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path("j/manifest.json").read_text())
    assert sorted(p.name for p in Path("j/joint").iterdir()) == [
        *("000.png", "000.second.json", "001.png", "001.second.json"),
    ]
    for arguments, message in (
        (("--given", "first=bad.a"), "expected a JSON array"),
        (("--given", "first=absent.a"), "in one of ['a'], got no such file, and first cannot be typed"),
        (("--given", "first=@absent.a"), "cannot be read: No such file"),
        (("--given", "one.a"), "expected --given MODALITY=FILE or MODALITY=TEXT, such as first=FILE, got 'one.a'"),
        (("--given", "frist=one.a"), "--given frist=one.a: did you mean 'first'?"),
        (("--given", "second=one.a"), "ending in one of ['b'], got one ending in .a"),
        (("--given", "first=one.a", "--given", "second=one.b"), "every modality is given; leave out the ones to gen"),
        (("--num", "0"), "expected --num of 1 to 4096"),
        (("--num", "1000000000"), "expected --num of 1 to 4096"),
        (("--guidance", "-1"), "--guidance: expected a number of at least 0, got -1.0"),
        (("--want", "secnd"), "--want secnd: did you mean 'second'?"),
        (("--out", "/proc/x"), "error: cannot read or write '/proc/x': No such file or directory"),
    ):
        assert dispatch(("sample", str(folder), *arguments)) == 2
        said = capsys.readouterr().err
        assert message in said
        assert "Traceback" not in said
    failed = shala("sample", str(folder), "--given", "first=bad.a")
    assert (failed.returncode, failed.stderr.startswith("error: ")) == (2, True), failed.stderr


def test_conditional_samples_follow_what_is_given(two_spec):
    """After a little training, the second point is the first one turned by a quarter, far better than chance."""
    folder = run(
        two_spec, "r", "train.autoencoder.steps=800", "train.prior.steps=1000", "train.prior.learning_rate=3e-3"
    )
    model = load(folder)
    rows = load_rows([str(p) for p in folder.glob("data/validation-*.tar")], model.modalities)
    rows = rows.take(torch.nonzero(rows.presence.all(1))[:, 0])
    made = model.generate(8, given={"first": rows.x["first"]})["second"]
    error = (made - rows.x["second"][:, None]).square().sum(-1).mean().sqrt()
    chance = (rows.x["second"].roll(1, 0) - rows.x["second"]).square().sum(-1).mean().sqrt()
    assert error < 0.35 * chance


@pytest.fixture
def diverging(monkeypatch):
    """Set a learning rate of 1e18, which no spec allows."""
    monkeypatch.setattr(steps, "learning_rate_factor", lambda *_: 1e20)


def test_a_diverging_loss_stops_the_run(two_spec, diverging, capsys):
    """A non-finite loss is an error that names the stage and the step, and no checkpoint of NaNs is written."""
    with pytest.raises(TrainingError, match="stage autoencoder: not finite by step"):
        run(two_spec, "r", "train.autoencoder.log_every_steps=10")
    assert not (Path("r") / CHECKPOINTS[0]).exists()


def test_a_state_that_is_not_finite_is_never_saved(two_spec, diverging):
    """If a state is due between two lines of metrics, the last good state is kept for resuming."""
    with pytest.raises(TrainingError, match="not finite by step 20"):
        run(two_spec, "r", "train.autoencoder.log_every_steps=50")
    assert not list(Path("r/state").glob("autoencoder*"))


def test_missing_shards_are_named(two_spec, capsys):
    """Without a stand-in, missing shards give one message with the searched place, before a folder is created."""
    text = two_spec.read_text()
    start, end = text.index("[data.stand_in]"), text.index("[modality.first]")
    two_spec.write_text(text[:start] + text[end:])
    with pytest.raises(SystemExit) as leaving:
        main_run([str(two_spec)])
    assert leaving.value.code == 2
    assert "no such shards: nowhere/train-000.tar" in capsys.readouterr().err
    assert not Path("runs").exists()


class Told(Silent):
    """Records the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text):
        self.warnings.append(text)

    def absences(self) -> list[str]:
        return [text for text in self.warnings if "data.train" in text and "SYNTHETIC" not in text]


FEW_STEPS = ("train.autoencoder.steps=3", "train.prior.steps=3", "generate.num_joint=0", "generate.num_rows=0")


def test_a_modality_that_no_row_has_is_an_error(two_spec):
    """With a mistyped field, a run in memory stops before training. The message has wanted and available fields."""
    message = (
        r"^data\.train: no sample has modality 'second': expected one of the fields \['bb'\], got \['a', 'b', 'cls'\]; "
        r"correct modality\.second\.options, or remove this modality$"
    )
    with pytest.raises(DataError, match=message):
        run(two_spec, "r", *FEW_STEPS, "modality.second.options.field=bb")
    assert not (Path("r") / CHECKPOINTS[0]).exists()


def test_a_modality_that_a_stream_seems_to_lack_is_warned_of(two_spec, monkeypatch):
    """The first samples of a stream are inspected once without decoding; a fresh run warns, a resumed one does not."""
    field = "modality.second.options.field=bb"
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "cut", "data.in_memory=false", field, reporter=StopAt("autoencoder", 33))
    run(two_spec, "cut", *("data.in_memory=false", field), reporter=told)
    assert not told.absences()
    run(two_spec, "r", "data.in_memory=false", *FEW_STEPS, field, reporter=told)
    (warning,) = told.absences()
    assert warning == (
        "data.train: none of the first 200 samples has modality 'second': expected one of the fields ['bb'], got "
        "['a', 'b', 'cls']; correct modality.second.options, or remove this modality"
    )
    told = Told()
    run(two_spec, "sound", "data.in_memory=false", *FEW_STEPS, reporter=told)
    assert not told.absences()


def test_a_look_at_a_stream_is_short_and_decodes_nothing(tmp_path, monkeypatch):
    """Inspection ends at the first sample that shows every modality, or at the limit, and knows prepared fields."""

    class Undecodable(TwoFloats):
        def read(self, sample):
            raise AssertionError("decoded")

    modalities = {name: Undecodable(TwoFloatsOptions(field=name)) for name in "ab"}
    read, seen = presence.read_in_order, []
    monkeypatch.setattr(
        presence, "read_in_order", lambda urls, cache, **_: (seen.append(raw.key) or raw for raw in read(urls, cache))
    )
    raw = [str(path) for path in pack(Made(MadeOptions(train=50)), None, tmp_path / "raw").shards]
    assert presence.absent_from_first(raw, modalities) == []
    assert len(seen) == 1
    seen.clear()
    lacking = modalities | {"c": Undecodable(TwoFloatsOptions(field="c"))}
    (sentence,) = presence.absent_from_first(raw, lacking, limit=20)
    assert sentence.startswith("none of the first 20 samples has modality 'c': ")
    assert len(seen) == 20
    readable = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    report = pack(Made(MadeOptions(train=50)), None, tmp_path / "ready", preparation=Preparation(readable))
    assert presence.absent_from_first([str(path) for path in report.shards], modalities) == []


def test_a_modality_whose_fields_hold_nothing_is_told_apart(tmp_path):
    """Fields that are present but give no row point to options other than `fields`."""

    class Nothing(TwoFloats):
        def read(self, sample):
            return None

    urls = [str(path) for path in pack(Made(MadeOptions(train=5)), None, tmp_path).shards]
    modalities = {"a": TwoFloats(TwoFloatsOptions(field="a")), "b": Nothing(TwoFloatsOptions(field="b"))}
    assert presence.absent_from_rows(load_rows(urls, modalities), modalities, urls) == [
        "no sample has modality 'b': reading the fields ['b'] gave nothing; check its options"
    ]


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_what_cannot_be_fitted_to_is_named(two_spec, monkeypatch, in_memory):
    """An undecodable field found while fitting is reported with shard, sample and modality; nothing is trained."""
    samples = Made.samples

    def spoilt(self, source, account):
        for sample in samples(self, source, account):
            fields = {**sample.fields, "b": b"["} if sample.key == "train_0017" else sample.fields
            yield attrs.evolve(sample, fields=fields)

    monkeypatch.setattr(Made, "samples", spoilt)
    shard = r"r/data/train-000000\.tar: sample 'train_0017', modality 'second': field 'b': expected a JSON array"
    with pytest.raises(DataError, match=f"^{shard}"):
        run(two_spec, "r", *FEW_STEPS, f"data.in_memory={in_memory}")


def test_too_little_to_fit_to_names_the_modality_and_no_sample(tmp_path):
    """After the last sample, only the modality is named; a damaged shard is named instead if there is one."""

    class Strict(TwoFloats):
        def fit(self, samples):
            list(samples)
            raise DataError("got no training sample")

    urls = [str(path) for path in pack(Made(MadeOptions(train=5)), None, tmp_path).shards]
    modality = Strict(TwoFloatsOptions(field="c"))
    with pytest.raises(DataError, match=r"^modality 'third': got no training sample$"):
        fit_to_shards("third", modality, urls)
    Path(urls[0]).write_bytes(b"")
    with pytest.raises(DataError, match=r"^\S+train-000000\.tar: expected \d+ bytes, as its index says, got 0"):
        fit_to_shards("third", modality, urls)


def test_metrics_rewind(tmp_path):
    """Lines after the resumed step and a truncated last line are removed; those before and of other stages stay."""
    metrics = MetricsFile(tmp_path / "m.jsonl")
    for stage, step in (("a", 10), ("a", 20), ("b", 5)):
        metrics.write(stage, step, {"loss": 1.0})
    with metrics.path.open("a") as file:
        file.write('{"stage": "b", "st')
    metrics.rewind("a", 10)
    lines = [json.loads(line) for line in metrics.path.read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("a", 10), ("b", 5)]


def test_unknown_verb_free_call_shows_help(capsys):
    """`shala` without arguments is not an error."""
    assert dispatch([]) == 0
    assert "Verbs:" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_described(tmp_path):
    """A name that does not exist, with the nearest one that does; a file in place of its folder; a folder without."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prior.safetensors").touch()
    for name, said in (
        ("mina", f"{tmp_path}/mina does not exist; expected the folder of a run: did you mean {tmp_path}/mine?"),
        ("else/where", "does not exist; expected the folder of a run: check the path"),
        ("mine/prior.safetensors", "is a file; expected the folder of a run: give the folder that it lies in"),
        ("mine", "no checkpoint at"),
    ):
        with pytest.raises(CheckpointError, match=re.escape(said)):
            load(tmp_path / name)
