"""`shala new-plugin` writes a plugin that passes the contract tests and this project's own linting."""

import os
import subprocess
import sys

import pytest

from shala_framework.cli.main import main


def call(*arguments):
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    return leaving.value.code


def test_what_is_written_passes_its_own_tests(tmp_path, capsys):
    assert call("new-plugin", "heart-rate", "--out", tmp_path) == 0
    folder = tmp_path / "shala-heart-rate"
    assert f"pip install -e {folder}" in capsys.readouterr().out
    texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert not [text for text in texts if "$" in text]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert found.returncode == 0, found.stdout
    assert "passed" in found.stdout


@pytest.mark.parametrize("name", ["Heart", "1st", "two words", "a--b", "class", "", "../up"])
def test_names_that_no_package_can_have_are_refused(name, tmp_path, capsys):
    assert call("new-plugin", name, "--out", tmp_path) == 2
    assert f"got {name!r}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused(tmp_path, capsys):
    """The name of an installed plugin is refused, because the new package would replace it."""
    assert call("new-plugin", "two-floats", "--out", tmp_path) == 2
    assert "got 'two-floats', which two-floats has" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_class_hides_nothing_that_its_module_imports(tmp_path):
    assert call("new-plugin", "tensor", "--out", tmp_path) == 0
    assert "class TensorSignal(Modality):" in (tmp_path / "shala-tensor/shala_tensor/__init__.py").read_text()


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "shala-mine").mkdir()
    assert call("new-plugin", "shala-mine", "--out", tmp_path) == 2
    assert "exists" in capsys.readouterr().err
    assert not list((tmp_path / "shala-mine").iterdir())
