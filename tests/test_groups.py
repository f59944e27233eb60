"""Tables that stand for several modalities, and the encoder and decoder that these can share."""

import json
from pathlib import Path

import pytest
import torch

from shala_framework import load
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.shared_networks import call_frozen
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.spec.schema import Posterior
from shala_framework.support.errors import SpecError

from two_floats import TwoFloats, TwoFloatsOptions  # isort: skip

pytestmark = pytest.mark.long


@pytest.fixture
def group_spec(two_spec):
    """The two modalities of the fake data set as one table."""
    head, _, rest = two_spec.read_text().partition("[modality.first]")
    tail = rest[rest.index("[posterior]") :]
    table = '[modality."v_{a,b}"]\nplugin = "two-floats"\noptions = { field = "{a,b}", width = 8 }\nshare = true\n\n'
    two_spec.write_text(head + table + tail)
    return two_spec


def test_braces_stand_for_tables(group_spec):
    """Names and texts are filled in, --set reaches all modalities or one, and errors name the line of the table."""
    spec = read_spec(group_spec, ['modality."v_{a,b}".options.width=9', "modality.v_b.options.width=10"]).spec
    assert {name: table.options for name, table in spec.modality.items()} == {
        "v_a": {"field": "a", "width": 9},
        "v_b": {"field": "b", "width": 10},
    }
    line = next(n for n, text in enumerate(group_spec.read_text().splitlines(), 1) if "width" in text)
    group_spec.write_text(group_spec.read_text().replace("width = 8", "width = 0"))
    with pytest.raises(SpecError) as caught:
        read_spec(group_spec)
    assert [problem.origin for problem in caught.value.problems] == [f"{group_spec}:{line}"] * 2


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("view_{00..31}", [f"view_{i:02d}" for i in range(32)]),
        ("{left,right}_{0..1}", ["left_0", "left_1", "right_0", "right_1"]),
    ],
)
def test_names_are_expanded_as_a_shell_would(group_spec, pattern, names):
    """Ranges with leading zeros, lists, and several braces in one name are expanded."""
    text = group_spec.read_text().replace("v_{a,b}", pattern).replace('field = "{a,b}"', 'field = "a"')
    group_spec.write_text(text)
    assert list(read_spec(group_spec).spec.modality) == names


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"v_{a,b}"]', '"v_{a,b}"]\ngroup = "x"', "not a key of a spec"),
        ('[modality."v_{a,b}"]', "[modality.v]", "modality.v.share: only a table with braces"),
        (
            "[posterior]",
            '[modality.v_a]\nplugin = "two-floats"\n[posterior]',
            "expected distinct names, got 'v_a' twice",
        ),
    ],
)
def test_wrong_groups_are_errors(group_spec, old, new, expected):
    """Each mistake has a message of its own."""
    group_spec.write_text(group_spec.read_text().replace(old, new))
    with pytest.raises(SpecError, match=expected):
        read_spec(group_spec)


TABLE = '{plugin = "two-floats", share = true, options = {field = "{a,b}"}}'


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("modality.v_a.group=x", "--set: modality.v_a.group: not a key of a spec (set share = true)"),
        ('modality."v_{a,b}".group=x', '--set: modality."v_{a,b}".group: not a key of a spec'),
        ("modality.v_a.group.of=1", "--set: modality.v_a.group: not a key of a spec"),
        ('modality.v_c={plugin="two-floats", group="x"}', "--set: modality.v_c.group: not a key of a spec"),
        ('modality={v_c={plugin="two-floats", group="x"}}', "--set: modality.v_c.group: not a key of a spec"),
        ("modality.v_c=" + TABLE, "--set: modality.v_c.share: only a table with braces in its name"),
        ('modality={v_a={plugin="a"}, "v_{a,b}"={plugin="a"}}', "expected distinct names, got 'v_a' twice"),
        ('modality={"v_{0..9999}"={plugin="two-floats"}}', "expected braces that stand for at most 1,000 tables"),
        ('modality."v_{0..998}".plugin=two-floats', "--set: modality: expected at most 1,000 modality tables"),
        ('modality."v_{a,b"={plugin="two-floats"}', "expected letters, digits, '_' and '-' only"),
        (f'modality."v_{{0..900}}".plugin={"x" * 9000}', "expected a shorter table for 901 names"),
    ],
)
def test_overrides_obey_the_rules_of_a_file(group_spec, override, expected):
    """A value that is refused in the file's modality table is refused in --set too."""
    with pytest.raises(SpecError) as caught:
        read_spec(group_spec, [override])
    assert expected in "\n".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("modality.v_a.group = 'x'", "not a key of a spec (set share = true)"),
        ("modality.'v_{0..998}'.plugin = 'two-floats'", "expected at most 1,000 modality tables"),
    ],
)
def test_a_stand_in_obeys_them_too(group_spec, line, expected):
    """Wrong overrides of the stand-in are refused at their line."""
    text = group_spec.read_text()
    group_spec.write_text(text.replace('set = { "train.prior.steps" = 40 }', f"[data.stand_in.set]\n{line}"))
    number = group_spec.read_text().splitlines().index(line) + 1
    with pytest.raises(SpecError) as caught:
        read_spec(group_spec)
    said = [str(problem) for problem in caught.value.problems if expected in str(problem)]
    assert said
    assert all(text.startswith(f"{group_spec}:{number}: ") for text in said)


def test_overrides_share_and_part_as_a_file_would(group_spec):
    """Members of a table share networks if they still agree after all overrides, in which braces are filled in too.

    Overrides of the stand-in reach the tables in the same way.
    """

    def tables(*overrides):
        found = read_spec(group_spec, overrides).spec.modality
        return {name: (table.group, table.options["field"]) for name, table in found.items()}

    group = "v_{a,b}"
    whole = {"v_a": (group, "a"), "v_b": (group, "b")}
    assert tables() == whole
    assert tables('modality."v_{a,b}".share=false') == {"v_a": ("", "a"), "v_b": ("", "b")}
    assert tables("modality.v_b.share=false") == {"v_a": (group, "a"), "v_b": ("", "b")}
    assert tables('modality."v_{b,a}".options.width=9', 'modality."v_{b,a}".options.field="{b,a}"') == whole
    assert tables(f'modality={{"v_{{a,b}}"={TABLE}}}') == whole
    other = "w_{a,b}"
    assert tables(f'modality."{other}"={TABLE}') == {**whole, "w_a": (other, "a"), "w_b": (other, "b")}
    larger = TABLE.replace("{a,b}", "{a,b,c}")
    assert {group for group, _ in tables(f'modality."v_{{a,b,c}}"={larger}').values()} == {"v_{a,b,c}"}
    for line in ("modality.'v_{a,b}'.share = false", "\"modality.'v_{a,b}'.share\" = false"):
        text = group_spec.read_text()
        group_spec.write_text(text.replace('set = { "train.prior.steps" = 40 }', f"[data.stand_in.set]\n{line}"))
        assert tables() == {"v_a": ("", "a"), "v_b": ("", "b")}
        assert tables("modality.v_a.share=true") == {"v_a": (group, "a"), "v_b": ("", "b")}
        group_spec.write_text(text)


def test_a_group_trains_with_one_encoder_and_one_decoder(group_spec):
    """The checkpoint stores shared networks once, and a loaded model distinguishes the members."""
    Experiment(read_spec(group_spec), Path("r")).run()
    model = load(Path("r"))
    names = list(model.autoencoder.state_dict())
    assert sum(name.startswith("shared_encoders.") for name in names) == 4
    assert {name.rpartition(".")[2] for name in names if name.startswith("encoders.")} == {"scale", "shift"}
    x = model.generate(4, seed=0)
    assert not torch.equal(x["v_a"], x["v_b"])
    assert json.loads(Path("r/spec.json").read_text())["spec"]["modality"]["v_a"]["group"] == "v_{a,b}"


def test_sharing_passes_gradients_and_costs_an_embedding_a_member():
    """All parameters get a gradient, a frozen call gives the encoder none, and members add almost no parameters."""

    def autoencoder(count, shared):
        names = [f"v{i}" for i in range(count)]
        return Autoencoder(
            {name: TwoFloats(TwoFloatsOptions(field="a")) for name in names},
            Posterior(latent_dim=4, feature_dim=16, hidden_dim=32),
            dict.fromkeys(names, "g") if shared else None,
        )

    model = autoencoder(3, shared=True)
    x = {name: torch.randn(8, 2) for name in model.names}
    asked = torch.randn(8, 2, requires_grad=True)
    h = call_frozen(model.encoders["v1"], asked)
    assert torch.allclose(h, model.encoders["v1"](asked))
    h.sum().backward()
    assert asked.grad.any()
    assert all(p.grad is None for p in model.parameters())
    bound = model.bound(x, torch.ones(8, 3, dtype=torch.bool))
    (-bound.value_B.mean() + sum(bound.added.values())).backward()
    assert all(p.grad is not None for p in model.parameters())

    def size(count, shared):
        parts = autoencoder(count, shared)
        modules = (parts.encoders, parts.decoders, parts.shared_encoders, parts.shared_decoders)
        return sum(p.numel() for module in modules for p in module.parameters())

    assert size(9, shared=True) - size(8, shared=True) == 2 * 16 + 4
    assert size(1, shared=True) < size(1, shared=False) + 40
