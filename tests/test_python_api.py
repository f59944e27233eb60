"""The Python API trains the same model as a spec, and misuse gives clear errors."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from own_floats import Items, Pair
from two_floats import TwoFloats, TwoFloatsOptions

import shala_framework as shala
from shala_framework.cli.main import main
from shala_framework.data.rows import load_rows
from shala_framework.run.experiment import Experiment
from shala_framework.run.training import RunTraining
from shala_framework.spec import read_spec
from shala_framework.support.errors import CheckpointError, DataError, SpecError
from shala_framework.training.budget import StageCost

SIZES = {"latent_dim": 4, "feature_dim": 8, "hidden_dim": 16}
SETTINGS = {"device": "cpu", "precision": "float32", "batch_size": 16}


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(60, 2, generator=generator)
    return {"a": first, "b": first + 0.1 * torch.randn(60, 2, generator=generator)}


def pair_model(**changes):
    return shala.ShaLa({n: Pair(TwoFloatsOptions(field=n)) for n in "ab"}, **{**SIZES, **changes})


def weights(model):
    return {**model.autoencoder.state_dict(), **{f"prior.{n}": v for n, v in model.prior.state_dict().items()}}


def assert_same(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_tensors_and_shards_train_the_model_of_the_spec(two_spec):
    """A run of the spec, its shards through train, and its rows as tensors agree bit for bit on one thread."""
    torch.set_num_threads(1)
    text = two_spec.read_text().replace("missing = 0.2", "missing = 0.0")
    two_spec.write_text(text)
    experiment = Experiment(read_spec(two_spec), Path("r"))
    experiment.run()
    trained = experiment.model
    spec = trained.spec
    given = {
        "autoencoder": {"steps": spec.train.autoencoder.steps, "kl_warmup_steps": 20, "save_every_steps": 20},
        "prior": {"steps": spec.train.prior.steps, "save_every_steps": 20},
        "precision": "float32",
        "device": "cpu",
    }
    sizes = {"latent_dim": 4, "feature_dim": 16, "hidden_dim": 32, "prior": {"hidden_dim": 32, "num_blocks": 1}}
    model = shala.ShaLa({n: TwoFloats(field=f) for n, f in (("first", "a"), ("second", "b"))}, **sizes)
    shards = [sorted(map(str, Path("r/data").glob(f"{split}-*.tar"))) for split in ("train", "validation")]
    shala.train(model, shards[0], validation=shards[1], in_memory=True, out="mine", **given)
    assert_same(model, trained)
    assert_same(shala.load("mine"), trained)
    rows, held_out = (load_rows(urls, trained.modalities) for urls in shards)
    other = shala.ShaLa(model.modalities, **sizes)  # its modalities are fitted already
    shala.train(other, rows.x, validation=held_out.x, **given)
    assert_same(other, trained)


def test_a_dataset_trains_as_its_rows_do(x):
    """Complete items equal tensors in memory, missing ones are missing, and workers change nothing."""
    torch.set_num_threads(1)
    whole = shala.train(pair_model(), x, steps=6, **SETTINGS)
    assert_same(whole, shala.train(pair_model(), Items(x, gaps=False), steps=6, **SETTINGS))
    gaps = shala.train(pair_model(), Items(x), steps=6, **SETTINGS)
    assert_same(gaps, shala.train(pair_model(), Items(x), steps=6, num_workers=2, **SETTINGS))
    other = {**x, "b": torch.where((torch.arange(60) % 3 == 0)[:, None], 100.0, x["b"])}  # b is absent in these rows
    assert_same(gaps, shala.train(pair_model(), Items(other), steps=6, **SETTINGS))
    shala.train(pair_model(), Items(x), validation=Items(other), steps=6, **SETTINGS)  # these may choose the weights
    assert not torch.equal(
        weights(gaps)["method.posterior.head.mean.weight"], weights(whole)["method.posterior.head.mean.weight"]
    )


def test_a_run_in_a_folder_resumes_and_refuses_other_data(x, tmp_path, monkeypatch):
    """The same call finds the trained stages, other tensors or settings are another run, and verbs open the folder."""
    monkeypatch.chdir(tmp_path)
    settings = {**SETTINGS, "validation": {n: v[:20] for n, v in x.items()}, "steps": 6}
    first = shala.train(pair_model(), x, out="r", **settings)
    before = {path.name: path.stat().st_mtime_ns for path in Path("r").glob("*.safetensors")}
    assert_same(first, shala.train(pair_model(), x, out="r", **settings))
    assert before == {path.name: path.stat().st_mtime_ns for path in Path("r").glob("*.safetensors")}
    with pytest.raises(CheckpointError, match=r"data\.train: 'memory: .*in the folder, 'memory: "):
        shala.train(pair_model(), {**x, "a": x["a"] + 1}, out="r", **settings)
    with pytest.raises(CheckpointError, match="expected a model that is not trained yet"):
        shala.train(first, x, out="other", **settings)
    loaded = shala.load("r", classes=[Pair])
    assert_same(loaded, first)
    assert torch.equal(loaded.generate(3)["a"], first.generate(3)["a"])
    with pytest.raises(SpecError, match=r"a class of your own is an argument: load\(folder, classes="):
        shala.load("r")
    losses = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in losses} == {"autoencoder", "prior"}


def test_verbs_work_on_a_run_of_tensors(tmp_path, monkeypatch, capsys):
    """`sample` and `report` do without the rows, which no file holds; other verbs say how to name them as shards."""
    image = pytest.importorskip("shala_image").Image
    monkeypatch.chdir(tmp_path)
    pictures = torch.randint(0, 256, (24, 1, 28, 28), dtype=torch.uint8)
    model = shala.ShaLa({"a": image(height=28, width=28, channels=1)}, **SIZES)
    shala.train(model, {"a": pictures}, validation={"a": pictures}, out="r", steps=2, **SETTINGS)

    def status(*arguments):
        with pytest.raises(SystemExit) as leaving:
            main(list(arguments))
        return leaving.value.code

    assert status("sample", "r", "--num", "2", "--out", "s") == 0
    assert len(list(Path("s").rglob("*.png"))) >= 2
    assert status("report", "r") == 0
    assert "the validation rows of this run came from Python and are in no file" in capsys.readouterr().err
    for verb, extra in (("evaluate", ()), ("embed", ("--out", "z.npz"))):
        assert status(verb, "r", "--split", "validation", *extra) == 2
        hint = "name these by --set 'data.train=shards/train-*.tar' --set 'data.validation=shards/validation-*.tar'"
        assert hint in capsys.readouterr().err
    content = {f"{n:04d}.png": model.modalities["a"].write(x)["png"] for n, x in enumerate(pictures)}
    with tarfile.open("train-000000.tar", "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    sets = ("--set", "data.train=train-*.tar", "--set", "data.test=train-*.tar")
    assert status("evaluate", "r", "--split", "test", "--set", "evaluate.minutes=0.02", *sets) == 0
    assert status("embed", "r", "--split", "test", "--out", "z.npz", *sets) == 0


def test_without_a_folder_nothing_is_written(x, tmp_path, monkeypatch):
    """Training a trained model continues from its weights."""
    monkeypatch.chdir(tmp_path)
    model = shala.train(pair_model(), x, steps=3, **SETTINGS)
    once = {name: value.clone() for name, value in weights(model).items()}
    shala.train(model, x, steps=3, **SETTINGS)
    assert not list(tmp_path.iterdir())

    def distance(other):
        return sum(float((value - once[name]).double().norm()) for name, value in weights(other).items())

    assert 0 < distance(model) < distance(pair_model(seed=5))


def test_a_fitted_text_learns_from_tokens(tmp_path):
    """A modality that learns is fitted by its owner or from shards; until then it has no networks."""
    caption = pytest.importorskip("shala_text").Text(max_tokens=8, width=16, vocabulary_size=300)
    model = shala.ShaLa({"caption": caption}, **SIZES)
    with pytest.raises(RuntimeError, match=r"no networks yet, as \['caption'\] learn from training samples"):
        model.generate(1)
    with pytest.raises(ValueError, match="expected a fitted text modality"):
        shala.train(model, {"caption": torch.zeros(4, 8, dtype=torch.int64)}, steps=1)
    samples = [{"txt": word.encode()} for word in ("red", "green", "blue")] * 4
    caption.fit(samples)
    tokens = torch.stack([caption.read(sample) for sample in samples])
    shala.train(model, {"caption": tokens}, steps=2, **SETTINGS)
    model.save(tmp_path)
    assert torch.equal(shala.load(tmp_path).generate(2)["caption"], model.generate(2)["caption"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: shala.ShaLa({"a": Pair(field="a")}, latent_dims=4), "latent_dims.*did you mean 'latent_dim'"),
        (lambda x: shala.ShaLa({"a": Pair(field="a")}, latent_dim=3.5), "expected int, got float 3.5"),
        (lambda x: shala.ShaLa({"a": Pair(field="a")}, prior={"blocks": 1}), "prior.blocks: unknown key"),
        (lambda x: shala.ShaLa({"a": Pair(field="a")}, groups={"b": "g"}), r"expected modalities \['a'\], got 'b'"),
        (lambda x: Pair(field=3), "Pair: field: expected string, got int 3"),
        (lambda x: Pair(feld="a"), "Pair: feld: unknown key .*did you mean 'field'"),
        (lambda x: shala.train(pair_model(), x, step=3), r"no setting 'step' \(did you mean"),
        (lambda x: shala.train(pair_model(), x, steps=3, minutes=1), "steps or minutes, got both"),
        (lambda x: shala.train(pair_model(), x, steps=0), "steps of at least 1"),
        (lambda x: shala.train(pair_model(), x, stages=["prior"]), "expected a trained autoencoder before prior"),
        (lambda x: shala.train(pair_model(), x, stages=["posterior"]), r"stages among \['autoencoder', 'prior', "),
        (lambda x: shala.train(pair_model(), x, autoencoder={"stepps": 3}), "train.autoencoder.stepps"),
        (lambda x: shala.train(pair_model(), {"a": x["a"]}), r"got none of \['b'\]"),
        (lambda x: shala.train(pair_model(), {**x, "c": x["a"]}), r"among \['a', 'b'\], got \['c'\]"),
        (lambda x: shala.train(pair_model(), {**x, "b": x["b"][:9]}), "same number of rows"),
        (lambda x: shala.train(pair_model(), {**x, "b": x["b"].double()}), "'b' of torch.float32"),
        (lambda x: shala.train(pair_model(), {**x, "b": x["b"] / 0}), "finite values of 'b'"),
        (lambda x: shala.train(pair_model(), {n: v[:0] for n, v in x.items()}), "at least one row"),
        (lambda x: shala.train(pair_model(), 3), "got int"),
        (lambda x: shala.train(pair_model()), "came from Python"),
        (lambda x: shala.train(pair_model(), "nowhere/*.tar"), "no such shards"),
        (lambda x: shala.train(pair_model(), Items({"a": x["a"], "b": x["a"][:, :1]})), r"item \d+, 'b': expected"),
        (lambda x: shala.train(pair_model(), Items({"a": x["a"], "d": x["a"]}, gaps=False)), r"got \['d'\]"),
        (lambda x: shala.train(pair_model(), Items({"a": x["a"]}, gaps=False)), r"none of \['b'\]"),
        (
            lambda x: pair_model().embed({"a": x["a"], "b": None}),
            "expected a tensor of 'b', .*, got NoneType; leave out",
        ),
        (lambda x: pair_model().elbo({"a": x["a"]}), r"every modality of \['a', 'b'\]"),
    ],
)
def test_misuse_gives_clear_errors(x, call, message):
    with pytest.raises((ValueError, TypeError, SpecError, DataError), match=message):
        call(x)


def test_the_elbo_is_below_the_log_evidence_of_a_known_model(x):
    """With more samples, its mean stays and its noise falls; it is finite for all rows."""
    model = shala.train(pair_model(), x, steps=3, **SETTINGS)
    few, many = (model.elbo(x, num_samples=n) for n in (1, 200))
    assert few.isfinite().all()
    assert abs(float(few.mean() - many.mean())) < 4 * float((few - many).std()) / len(few) ** 0.5 + 1e-3
    assert torch.equal(model.elbo(x, num_samples=3), model.elbo(x, num_samples=3))


def test_stages_one_by_one_are_those_of_one_call(x, monkeypatch):
    """A time budget works too, and training a stage again resets later stages."""
    torch.set_num_threads(1)
    whole = shala.train(pair_model(), x, steps=4, **SETTINGS)
    model = shala.train(pair_model(), x, stages=["autoencoder"], steps=4, **SETTINGS)
    assert model.stages == {"autoencoder"}
    assert_same(shala.train(model, x, stages=["prior"], steps=4, **SETTINGS), whole)
    cost = StageCost(step_seconds=0.1)  # independent of the machine
    monkeypatch.setattr(RunTraining, "measure", lambda self, seconds: (dict.fromkeys(self.stages, cost), 0.0))
    shala.train(model, x, stages=["prior"], minutes=0.01, **SETTINGS)
    assert model.spec.train.prior.steps in (5, 6)  # up to rounding
    assert torch.equal(
        model.autoencoder.state_dict()["method.posterior.head.mean.bias"],
        whole.autoencoder.method.posterior.head.mean.bias,
    )
    assert shala.train(model, x, stages=["autoencoder"], minutes=0.01, **SETTINGS).stages == {"autoencoder"}
