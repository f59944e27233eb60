"""Exported programs are the model: in torch, in ONNX Runtime, and in a script without this package."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import run

from shala_framework import PluginError, ShaLa, load
from shala_framework.cli.main import dispatch
from shala_framework.model.programs import example_values, programs_of
from shala_framework.plugin.loading import load_modality
from shala_framework.report.samples import SYNTHETIC
from shala_framework.run import exporting
from shala_framework.run.exporting import EXAMPLE_ROWS, ONNX_PACKAGES, export_model
from shala_framework.support.progress import Silent

SCRIPT = Path(__file__).parent.parent / "examples" / "sample_exported.py"
GUIDED = ("--set", "generate.guidance_scale=2", "--set", "generate.autoguidance_scale=1.5")
LIMITED = ("--set", "generate.guidance_sigma_max=3", "--set", "generate.num_steps=12")
NAMES = {
    *(f"{verb}_{modality}" for verb in ("encode", "decode") for modality in ("first", "second")),
    *("fuse", "clusters", "denoise", "restore"),
}  # fmt: skip


def call(capsys, *words):
    status = dispatch([str(word) for word in words])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, two_spec_text):
    """A run of two fake modalities; tests only read it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "two.toml").write_text(two_spec_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(folder / "two.toml", str(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def exported(trained):
    """The programs of that run, with guidance of both kinds; tests only read them."""
    out = trained.parent / "exported"
    assert dispatch(["export", str(trained), "--out", str(out), *GUIDED, *LIMITED]) == 0
    return out


def programs(folder):
    about = json.loads((folder / "export.json").read_text())
    loaded = {
        name: torch.export.load(str(folder / program["file"])).module() for name, program in about["programs"].items()
    }
    return about, loaded


def test_programs_are_the_model_for_any_number_of_rows(trained, exported):
    """Encoders, fusion and decoders return what embed, posterior and decode return, also for numbers not checked."""
    about, called = programs(exported)
    assert set(called) == NAMES
    assert about["programs"]["denoise"]["inputs"][0] == {"name": "y", "dtype": "float32", "shape": ["batch", 4]}
    model, values = load(trained), example_values(load(trained), 9, seed=3)
    h = torch.stack([called[f"encode_{name}"](values[name]) for name in model.names], 1)
    for given in ((True, True), (True, False), (False, True)):
        given_BM = torch.tensor(given).expand(9, 2)
        mean, std = called["fuse"](h * given_BM[:, :, None], given_BM)
        q = model.posterior({n: values[n] for n, chosen in zip(model.names, given, strict=True) if chosen})
        torch.testing.assert_close(mean, q.mean_BD, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std, (0.5 * q.log_var_BD).exp(), rtol=1e-4, atol=1e-5)
    for name, x in model.decode(values["z"]).items():
        torch.testing.assert_close(called[f"decode_{name}"](values["z"]), x, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_the_loop_of_the_manifest_samples_the_model(trained, exported, tmp_path):
    """A script that imports torch alone draws the distribution of `generate` given a modality."""
    text = SCRIPT.read_text()
    assert "shala_framework" not in text
    assert len(text.splitlines()) <= 45
    model = load(trained)
    x = model.modalities["first"].read({"a": b"[4.0, 0.0]"})[None]
    np.save(tmp_path / "x.npy", x.numpy())
    object.__setattr__(model.spec.generate, "guidance_sigma_max", 3.0)
    command = [sys.executable, str(SCRIPT), str(exported), "600", "first=x.npy"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    drawn = model.generate(600, given={"first": x}, seed=7, guidance_scale=2.0, autoguidance_scale=1.5, num_steps=12)
    for name in model.names:
        found, expected = torch.from_numpy(np.load(tmp_path / f"{name}.npy")), drawn[name].view(-1, 2)
        assert found.shape == expected.shape
        spread = expected.std(0)
        assert ((found.mean(0) - expected.mean(0)).abs() < 6 * spread / 600**0.5 * 2**0.5 + 1e-4).all()
        assert ((found.std(0) / spread).log().abs() < 0.2).all()


def test_networks_that_modalities_share_are_in_each_program(two_spec, tmp_path):
    """Members of a group have programs of their own, with the weights of the group."""
    head, _, rest = two_spec.read_text().partition("[modality.first]")
    table = '[modality."v_{a,b}"]\nplugin = "two-floats"\noptions = { field = "{a,b}" }\nshare = true\n\n'
    two_spec.write_text(head + table + rest[rest.index("[posterior]") :])
    folder = run(two_spec, "run", "train.prior.steps=1")
    (folder / "prior.safetensors").unlink()  # its programs are not the point
    model = load(folder)
    export_model(model, tmp_path / "out", reporter=Silent())
    _, called = programs(tmp_path / "out")
    values = example_values(model, 4)
    for name, x in model.decode(values["z"]).items():
        torch.testing.assert_close(called[f"decode_{name}"](values["z"]), x, rtol=1e-4, atol=1e-5)


def test_without_stage_2_there_are_no_programs_of_it(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "prior.safetensors").unlink()
    status, said, err = call(capsys, "export", tmp_path / "run", "--out", tmp_path / "out")
    assert status == 0
    assert f"wrote 5 programs to {tmp_path / 'out'}" in said
    assert SYNTHETIC in err
    assert "stage 2 is not trained" in err
    assert "sampling" not in json.loads((tmp_path / "out" / "export.json").read_text())


@pytest.mark.parametrize(
    ("plugin", "options", "fitted"),
    [
        ("image", {"height": 32, "width": 32, "likelihood": "logistic_mixture"}, ()),
        ("text", {"vocabulary_size": 260, "max_tokens": 8, "num_layers": 1}, [{"txt": b"a red circle"}] * 9),
        ("label", {}, [{"cls": name} for name in (b"a", b"b", b"c") * 3]),
        ("table", {}, [{"table.json": json.dumps({"n": n / 7, "kind": "ab"[n % 2]}).encode()} for n in range(40)]),
        ("audio", {}, ()),
        ("skeleton", {}, ()),
        ("video", {}, ()),
    ],
)
def test_bundled_modalities_can_be_exported(plugin, options, fitted):
    """Their encoders and decoders become programs for any number of rows."""
    pytest.importorskip(f"shala_{plugin}", reason=f"needs the plugin {plugin}")
    kind = load_modality(plugin)
    modality = kind(**options)
    if fitted:
        modality.fit(fitted)
    model = ShaLa({"one": modality}, latent_dim=4, feature_dim=8, hidden_dim=8)
    model = model if model.is_built else model.build()
    values = {count: example_values(model, count) for count in (EXAMPLE_ROWS, 1, 5)}
    for program in programs_of(model):
        exported = exporting._exported(program, values[EXAMPLE_ROWS], fixed=False).module()
        checks = [(program.arguments(values[count]), program) for count in (1, 5)]
        assert exporting._check(exported, checks, program.name) < 1e-4


class CountingRows(torch.nn.Module):
    """A decoder for as many rows as it was exported with."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z):
        return self.inner(z[torch.arange(len(z))])


def test_a_network_for_one_number_of_rows_needs_that_number(trained, tmp_path):
    """len(x) fixes the number of rows: an error that says what to do, and works with a fixed batch size."""
    model = load(trained)
    model.autoencoder.decoders["first"] = CountingRows(model.autoencoder.decoders["first"])
    with pytest.raises(PluginError, match=r"decode_first: torch.export cannot .* rather than len\(x\).*--batch-size N"):
        export_model(model, tmp_path / "any", reporter=Silent())
    assert not (tmp_path / "any" / "export.json").exists()
    manifest = export_model(model, tmp_path / "four", batch_size=4, reporter=Silent())
    assert manifest["programs"]["decode_first"]["inputs"][0]["shape"] == [4, 4]


def test_a_program_that_differs_from_the_model_is_refused(trained, tmp_path, monkeypatch):
    """What is loaded from the file is compared with the model."""
    loaded = exporting._loaded

    def shifted(file):
        module = loaded(file)
        return (lambda *x: module(*x) + 0.01) if file.name == "decode_second.pt2" else module

    monkeypatch.setattr(exporting, "_loaded", shifted)
    with pytest.raises(PluginError, match=r"decode_second.pt2: x differs from the model's by 0\.0.*at most 0.001"):
        export_model(load(trained), tmp_path / "out", reporter=Silent())


def test_mistakes_of_the_command_are_named(trained, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words, message in (
        (("--out", tmp_path / "full"), f"expected a new or an empty folder for --out, got {tmp_path / 'full'}"),
        (("--out", tmp_path / "out", "--batch-size", 0), "expected --batch-size of 1 to 1048576, got 0"),
        (("--out", tmp_path / "out", "--set", "prior.dropout=0.5"), "expected a key of [generate]"),
    ):
        status, _, err = call(capsys, "export", trained, *words)
        assert status == 2
        assert message in err
    if not all(map(importlib.util.find_spec, ONNX_PACKAGES)):
        status, _, err = call(capsys, "export", trained, "--out", tmp_path / "out", "--onnx")
        assert status == 2
        assert "pip install 'shala-framework[onnx]'" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ONNX_PACKAGES)), reason=f"needs {', '.join(ONNX_PACKAGES)}: the extra onnx"
)
@pytest.mark.filterwarnings("default")  # of the converter's own imports
def test_onnx_runtime_computes_the_same(trained, tmp_path, capsys):
    """Every program is converted, and ONNX Runtime returns the model's results for numbers of rows not checked."""
    import onnxruntime

    status, said, _ = call(capsys, "export", trained, "--out", tmp_path / "out", "--onnx", *GUIDED)
    assert status == 0
    assert "8 programs and 8 ONNX programs" in said
    about, called = programs(tmp_path / "out")
    assert about["onnx_left_out"] == {}
    values = example_values(load(trained), 11, seed=5)
    values |= {"x": values["first"]}
    for name in ("encode_first", "fuse", "clusters", "denoise", "restore", "decode_second"):
        program = about["programs"][name]
        session = onnxruntime.InferenceSession(str(tmp_path / "out" / program["onnx"]))
        arguments = {tensor["name"]: values[tensor["name"]] for tensor in program["inputs"]}
        taken = {tensor.name for tensor in session.get_inputs()}
        found = session.run(None, {n: value.numpy() for n, value in arguments.items() if n in taken})
        expected = called[name](*arguments.values())
        for one, other in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
            np.testing.assert_allclose(one, other.detach(), rtol=1e-3, atol=1e-4)
