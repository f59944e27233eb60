"""Plugins are found by name alone, and errors of a broken one name its distribution and the cause."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shala_framework import PluginError, SpecError
from shala_framework.cli.main import main, main_run
from shala_framework.plugin.loading import installed_offers, load_dataset, load_modality
from shala_framework.spec import read_spec

Install = Callable[..., str]

SOUND = """\
import attrs
from two_floats import Made, TwoFloats
from shala_framework.plugin import Dataset, Modality, hookimpl

@attrs.frozen(kw_only=True)
class Options:
    depth: int = 1

class Deep(TwoFloats):
    Options = Options

@hookimpl
def shala_register_modalities(register):
    register("deep", Deep)
"""


@pytest.fixture
def install(install_distribution: Install) -> Install:
    """Install a distribution; by default a sound one that offers the modality "deep"."""

    def install(distribution: str, code: str = SOUND, offers: tuple[str, ...] = ("deep",), version: str = "2.1") -> str:
        return install_distribution(distribution, code, offers, version)

    return install


def status_of(command: Callable[[list[str]], None], *arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        command(list(arguments))
    return caught.value.code


def replaced(old: str, new: str) -> str:
    assert old in SOUND
    return SOUND.replace(old, new)


def test_an_installed_plugin_is_loaded_by_its_name(install):
    """A dist-info folder with an entry point is sufficient."""
    install("acme-deep")
    found = load_modality("deep")
    assert found.__name__ == "Deep"
    assert found.Options(depth=3).depth == 3


BROKEN = {
    "import fails": ("import no_such_library\n", "importing 'acme_deep' failed: ModuleNotFoundError: No module named"),
    "no Python": ("def (:\n", "importing 'acme_deep' failed: SyntaxError: invalid syntax"),
    "hook fails": (replaced('("deep", Deep)', '("deep")'), "its hook shala_register_modalities failed: TypeError: "),
    "misspelt hook": (
        replaced("shala_register_modalities", "shala_register_modalitys"),
        "unknown hook 'shala_register_modalitys' (did you mean 'shala_register_modalities'?)",
    ),
    "misspelt hook without a mark": (
        replaced("@hookimpl\ndef shala_register_modalities", "def shala_register_modality"),
        "unknown hook 'shala_register_modality' (did you mean 'shala_register_modalities'?)",
    ),
    "marked function of another name": (
        replaced("def shala_register_modalities", "def register_all"),
        "unknown hook 'register_all' (",
    ),
    "hook without a mark": (
        replaced("@hookimpl\n", ""),
        "expected the hook 'shala_register_modalities' to be marked with @hookimpl, got a plain function",
    ),
    "hook with another argument": (
        replaced("modalities(register):\n    register", "modalities(add):\n    add"),
        "Argument(s) {'add'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "another name": (
        replaced('"deep"', '"deeper"'),
        "expected its entry point 'deep' to register a modality under that name, got the modality 'deeper'",
    ),
    "nothing": (
        replaced('register("deep", Deep)', "pass"),
        "expected its entry point 'deep' to register a modality under that name, got nothing",
    ),
    "twice": (replaced('register("deep", Deep)', 'register("deep", Deep); register("deep", Deep)'), "'deep' twice"),
    "no Modality": (replaced("Deep)", "Options)"), "expected a subclass of Modality for 'deep', got the class Options"),
    "an instance": (
        replaced("Deep)", "Deep(Options()))"),
        "expected a subclass of Modality for 'deep', got a value of type Deep",
    ),
    "a data set": (
        replaced("Deep)", "Made)"),
        "expected a subclass of Modality for 'deep', got the class Made",
    ),
    "abstract": (
        replaced("(TwoFloats)", "(Modality)"),
        "Deep does not implement decoder, encoder, fields, preview, read, shape, write of Modality",
    ),
    "options of no attrs class": (
        replaced("@attrs.frozen(kw_only=True)\n", ""),
        "expected Deep.Options to be an attrs class, got <class 'acme_deep.Options'>",
    ),
}


@pytest.mark.parametrize(("code", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_named_with_its_distribution_and_the_cause(code, expected, install, two_spec, capsys):
    """The message has the spec's line, the distribution with its version, and the problem; status 2, no traceback."""
    install("acme-deep", code)
    two_spec.write_text(two_spec.read_text().replace('plugin = "two-floats"\noptions', 'plugin = "deep"\noptions', 1))
    assert status_of(main_run, "two.toml") == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: two.toml:14: modality.first.plugin: acme-deep 2.1")
    assert expected in err
    assert "Traceback" not in err


def test_two_distributions_with_one_name_are_both_named(install):
    """Neither wins silently: the message names both, so that one can be uninstalled, and imports neither."""
    install("acme-deep", "raise AssertionError('imported')")
    install("zeta-deep", "raise AssertionError('imported')", version="0.3")
    with pytest.raises(PluginError, match=r"'deep', got acme-deep 2\.1 and zeta-deep 0\.3; uninstall all but one"):
        load_modality("deep")


def test_one_distribution_seen_twice_on_the_path_is_one(install, tmp_path, monkeypatch):
    """A checkout on PYTHONPATH that is also installed does not conflict with itself."""
    install("acme-deep")
    copy = tmp_path / "again"
    copy.mkdir()
    (copy / "acme_deep-2.1.dist-info").symlink_to(tmp_path / "site" / "acme_deep-2.1.dist-info")
    monkeypatch.syspath_prepend(str(copy))
    assert load_modality("deep").__name__ == "Deep"


def test_a_data_set_keeps_its_contract_too(install, two_spec):
    """An abstract data set, one with other arguments, and a stand-in that needs raw files are refused."""
    hook = "@hookimpl\ndef shala_register_datasets(register):\n    register('source', Source)\n"
    abstract = f"class Source(Dataset):\n    Options = Options\n\n{hook}\n@hookimpl"
    install("acme-abstract", replaced("@hookimpl", abstract), ("source",))
    with pytest.raises(PluginError, match=r"acme-abstract 2\.1: Source does not implement samples of Dataset"):
        load_dataset("source")
    other = f"class Source(Dataset):\n    Options = Options\n    def samples(self, source): ...\n\n{hook}\n@hookimpl"
    install("acme-other", replaced("@hookimpl", other.replace("'source'", "'other'")), ("other",))
    with pytest.raises(PluginError, match=r"expected Source\.samples\(self, source, account\), got \(self, source\)"):
        load_dataset("other")
    hook = hook.replace("'source'", "'films'")
    films = f"class Source(Made):\n    needs_source = True\n\n{hook}\n@hookimpl"
    install("raw-films", replaced("@hookimpl", films), ("films",))
    two_spec.write_text(two_spec.read_text().replace("two-floats-made", "films"))
    expected = r"^two\.toml:9: data\.stand_in\.dataset: expected a data set that generates its samples, got 'films'"
    with pytest.raises(SpecError, match=expected):
        read_spec(Path("two.toml"))


def test_a_broken_plugin_disturbs_no_one_who_does_not_name_it(install, two_spec):
    """Only plugins that the spec names are imported."""
    install("acme-deep", "raise SystemExit('imported')")
    assert list(read_spec(two_spec).modality_classes) == ["first", "second"]


def test_plugins_are_listed_by_kind_and_the_broken_say_why(install, capsys):
    """`shala plugins` shows the kind and distribution of each; one that fails to load hides no other."""
    install("acme-deep", "raise RuntimeError('no such device')", ("deep", "deep-made"))
    assert status_of(main, "plugins") == 0
    out = capsys.readouterr().out
    modalities, _, broken = out.partition("cannot be loaded:\n")
    assert re.search(
        r"^modality:\n(  .+\n)*  two-floats +Two floats, with their training mean subtracted\.  \(two-floats 1\.0\)$",
        out,
        re.MULTILINE,
    )
    assert re.search(r"^data set:\n(  .+\n)*  two-floats-made ", modalities, re.MULTILINE)
    for name in ("deep     ", "deep-made"):
        assert f"  {name}" in broken
        assert "RuntimeError: no such device" in broken
    assert status_of(main, "plugins", "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["deep"]["kind"] is None
    assert "no such device" in listed["deep"]["error"]
    assert listed["deep"]["distribution"] == "acme-deep"
    assert listed["deep"]["version"] == "2.1"
    assert listed["two-floats-made"] | {"error": None, "kind": "data set"} == listed["two-floats-made"]
    offers = [(offer.name, offer.distribution) for offer in installed_offers()]
    assert offers == sorted(offers)


def test_the_options_of_one_plugin_are_shown_as_toml_writes_them(install, capsys):
    """`shala plugins NAME` shows each option with its type, default and meaning."""
    options = 'a: bool = True\n    b: tuple[int, ...] = (1, 2)\n    c: float | None = None\n    d: "str"'
    install("acme-deep", replaced("depth: int = 1", options))
    assert status_of(main, "plugins", "two-floats") == 0
    out = capsys.readouterr().out
    assert out.startswith("two-floats, a modality: Two floats, with their training mean subtracted.\n")
    assert '  field                 string; default "a"\n' in out
    assert "  width                 int; default 32\n" in out
    assert "                Sample field that holds a JSON array of two numbers.\n" in out
    assert status_of(main, "plugins", "deep") == 0
    out = capsys.readouterr().out
    for option in (
        "boolean; default true",
        "an array of int; default [1, 2]",
        "float; default none",
        "string; required",
    ):
        assert f"{option}\n" in out
    assert status_of(main, "plugins", "two-floats-made") == 0
    assert "  missing               float; default 0.0\n" in capsys.readouterr().out


def test_an_unknown_plugin_is_answered_with_the_nearest(capsys):
    """`shala plugins NAME` with a misspelt name gives status 2 and the nearest name."""
    assert status_of(main, "plugins", "two-flots") == 2
    assert capsys.readouterr() == (
        "",
        "error: no installed plugin offers 'two-flots'; install the package that does (did you mean 'two-floats'?)\n",
    )


def test_without_any_plugin_the_message_says_how_to_get_one(monkeypatch, capsys):
    """Listing plugins without any is not an error, and a spec that needs one gets advice."""
    monkeypatch.setattr(sys, "path", [])
    assert status_of(main, "plugins") == 0
    assert "no plugins are installed; `pip install" in capsys.readouterr().out
    with pytest.raises(
        PluginError, match=r"offers 'two-floats'; install the package that does \(there are no plugins\)"
    ):
        load_modality("two-floats")


def test_a_process_shows_no_traceback_for_a_broken_import(install, two_spec, tmp_path, command_environment):
    """A separate process shows no traceback either."""
    install("acme-deep", "import no_such_library\n")
    two_spec.write_text(two_spec.read_text().replace('plugin = "two-floats"', 'plugin = "deep"'))
    environment = command_environment | {"PYTHONPATH": f"{tmp_path / 'site'}:{command_environment['PYTHONPATH']}"}
    command = [sys.executable, "-c", "from shala_framework.cli.main import main; main()", "check", "two.toml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    cause = "acme-deep 2.1: importing 'acme_deep' failed: ModuleNotFoundError: No module named 'no_such_library'"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: 2 problems\n  two.toml:14: modality.first.plugin: {cause}\n"
        f"  two.toml:18: modality.second.plugin: {cause}\n"
    )


def test_the_contract_tests_say_that_they_need_pytest():
    """Without pytest, the import names it and says how to install it."""
    code = "import sys; sys.modules['pytest'] = None; import shala_framework.plugin.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("needs pytest, which is not installed; run: pip install pytest")
