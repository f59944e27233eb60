"""Shards and rows: round trips, damaged tar files, streaming without loss, and seeds."""

import io
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.data import latent_store
from shala_framework.data.latent_store import LatentStore
from shala_framework.data.packing import pack
from shala_framework.data.rows import load_rows, shuffled_batches
from shala_framework.data.shards import read_shards
from shala_framework.data.streams import ShardStream, stream_batches
from shala_framework.plugin import Account
from shala_framework.support.errors import DataError
from shala_framework.support.seeds import mix_seed
from shala_framework.support.shard_names import any_exists, expand_urls

pytestmark = pytest.mark.long

MODALITIES = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Seven shards of 103 training samples, a fifth of which lack modality b."""
    report = pack(Made(MadeOptions(train=103, missing=0.2)), None, tmp_path / "s", shard_samples=15)
    return [str(path) for path in report.shards if path.name.startswith("train")]


def test_what_is_packed_is_read(shards):
    """Every key, field, byte and label comes back, in order."""
    written = [s for s in Made(MadeOptions(train=103, missing=0.2)).samples(None, Account()) if s.split == "train"]
    read = list(read_shards(shards))
    assert [(s.key, s.label) for s in read] == [(s.key, s.label) for s in written]
    assert [{k: v for k, v in s.fields.items() if k != "cls"} for s in read] == [s.fields for s in written]


@pytest.mark.parametrize("cut", [0, 100, 512, 1024, 1536, 2048, 3000, 5120])
def test_a_shard_cut_anywhere_is_an_error(tmp_path, cut):
    """This includes a cut between two members, after which the last sample would only lack a field."""
    path = tmp_path / "a.tar"
    pack(Made(MadeOptions(train=4)), None, tmp_path / "s")
    path.write_bytes((tmp_path / "s" / "train-000000.tar").read_bytes()[:cut])
    with pytest.raises(DataError, match="not a readable shard"):
        list(read_shards([str(path)]))


def make_tar(path: Path, names: list[str], label: bytes = b"[1, 2]") -> str:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            content = label if name.endswith(".cls") else b"[1, 2]"
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def test_a_key_in_two_places_is_an_error(tmp_path):
    """An unordered tar file, which would split one sample into two partial ones, is refused."""
    with pytest.raises(DataError, match="not adjacent"):
        list(read_shards([make_tar(tmp_path / "x.tar", ["k1.a", "k2.a", "k1.b"])]))


def test_hostile_shards_name_the_shard(tmp_path):
    """A file that is no tar file, a missing file, and one field twice in a sample are errors."""
    (tmp_path / "text.tar").write_text("hello " * 1000)
    doubled = make_tar(tmp_path / "d.tar", ["k.a", "k.a"])
    for url in (str(tmp_path / "text.tar"), str(tmp_path / "absent.tar"), doubled):
        with pytest.raises(DataError, match=r"\.tar: not a readable shard"):
            list(read_shards([url]))


def test_undecodable_fields_name_sample_and_modality(tmp_path):
    """The message names shard, key, modality and field."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("row7.a")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"oops"))
    with pytest.raises(DataError, match=r"x\.tar: sample 'row7', modality 'a': field 'a': expected a JSON array"):
        load_rows([str(path)], MODALITIES)
    with pytest.raises(DataError, match="expected a field of a modality"):
        load_rows([make_tar(tmp_path / "y.tar", ["k.other"])], MODALITIES)


@pytest.mark.parametrize("written", ["cat", "cat\n", " cat\r\n", "\ufeffcat"])
def test_labels_are_stripped(tmp_path, written):
    """A line end, as an editor or `echo` writes it, does not make another class; text in other languages does."""
    for label in (written, written.replace("cat", "chèvre blanche")):
        shard = make_tar(tmp_path / "x.tar", ["k.a", "k.cls"], label.encode())
        assert load_rows([shard], MODALITIES).labels == (label.strip("\ufeff \r\n"),)


@pytest.mark.parametrize(
    ("label", "got"),
    [
        ("chèvre".encode("latin-1"), "the byte 0xe8 at offset 2 of 6"),
        ("cat".encode("utf-16"), "the byte 0xff"),
        (b"", "0 bytes"),
        (b" \r\n", "3 bytes of white space"),
    ],
)
def test_labels_that_say_nothing_name_shard_sample_and_field(tmp_path, label, got):
    """An unreadable label gives one message, neither a traceback nor a class of its own."""
    shard = make_tar(tmp_path / "x.tar", ["k.a", "k.cls"], label)
    with pytest.raises(DataError, match=rf"x\.tar: sample 'k', field 'cls': expected the name of a class.*{got}"):
        load_rows([shard], MODALITIES)


def test_brackets_in_the_name_of_a_folder_are_its_name(tmp_path):
    """Brackets and question marks form a glob only if no file has them in its name."""
    for folder in ("set [1]", "set 1", "other 1"):
        (tmp_path / folder).mkdir()
        make_tar(tmp_path / folder / "train-0.tar", ["k.a"])
    assert expand_urls(f"{tmp_path}/set [1]/train-*.tar") == [f"{tmp_path}/set [1]/train-0.tar"]
    assert expand_urls(f"{tmp_path}/other [1]/train-[0-9].tar") == [f"{tmp_path}/other 1/train-0.tar"]


def test_missing_modalities_are_zeros_with_presence(shards):
    """`presence` marks the modalities of each row, and x is zero for missing ones."""
    rows = load_rows(shards, MODALITIES)
    assert rows.presence[:, 0].all()
    assert 5 < int((~rows.presence[:, 1]).sum()) < 40
    assert (rows.x["b"][~rows.presence[:, 1]] == 0).all()
    assert (rows.x["b"][rows.presence[:, 1]].abs().sum(1) > 0).all()


@pytest.mark.parametrize("buffer_size", [1, 16, 1000])
def test_a_streamed_epoch_holds_every_sample_once(shards, buffer_size):
    """An epoch is a permutation of the set, and the next epoch is another one."""
    stream = ShardStream(shards, MODALITIES, batch_size=1, buffer_size=buffer_size, seed=3)
    keys = [rows.keys[0] for rows in islice(stream, 206)]
    assert sorted(keys[:103]) == sorted(keys[103:]) == sorted(s.key for s in read_shards(shards))
    assert keys[:103] != keys[103:]
    assert keys[:103] != sorted(keys[:103])


def test_a_stream_resumes_at_any_step(shards):
    """A stream started at step 9 gives the batches of step 9 and later, bit for bit."""
    settings = {"batch_size": 8, "buffer_size": 20, "seed": 5}
    whole = list(islice(ShardStream(shards, MODALITIES, **settings), 30))
    late = list(islice(ShardStream(shards, MODALITIES, **settings, start_step=9), 21))
    for a, b in zip(whole[9:], late, strict=True):
        assert a.keys == b.keys
        assert all(torch.equal(a.x[name], b.x[name]) for name in a.x)


# PyTorch's loader may complain when its worker processes are dropped in the middle of an endless stream.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_share_an_epoch_without_loss(shards):
    """Two worker processes read each sample once, and a late start continues the same order."""
    stream = ShardStream(shards[:2], MODALITIES, batch_size=5, buffer_size=4, seed=1)
    batches = list(islice(stream_batches(stream, 2), 6))
    seen = Counter(key for rows in batches for key in rows.keys)
    assert set(seen.values()) == {1}
    assert len(seen) == 30
    late = ShardStream(shards[:2], MODALITIES, batch_size=5, buffer_size=4, seed=1, start_step=3)
    again = list(islice(stream_batches(late, 2), 3))
    assert [rows.keys for rows in again] == [rows.keys for rows in batches[3:]]


def test_shuffled_batches_are_a_function_of_the_step():
    """Every epoch is a permutation without its remainder; a late start continues it; small sets fill a batch."""
    batches = [b.tolist() for b in islice(shuffled_batches(10, 3, seed=7), 6)]
    assert len({i for b in batches[:3] for i in b}) == 9
    assert batches[:3] != batches[3:]
    assert [b.tolist() for b in islice(shuffled_batches(10, 3, seed=7, start_step=4), 2)] == batches[4:]
    small = next(shuffled_batches(3, 8, seed=0)).tolist()
    assert len(small) == 8
    assert set(small) == {0, 1, 2}


def test_seeds_of_neighbours_are_unrelated():
    """Different parts give different seeds that fit torch, and their lowest bits look random."""
    seeds = {mix_seed(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert 1100 < sum(seed & 1 for seed in seeds) < 1400
    assert mix_seed(1, 2) != mix_seed(2, 1)


def test_shard_names(tmp_path):
    """Braces and globs expand in order; a pattern without files is an error; URLs pass."""
    for i in range(3):
        (tmp_path / f"a-{i}.tar").touch()
    names = [str(tmp_path / f"a-{i}.tar") for i in range(3)]
    assert expand_urls(str(tmp_path / "a-{0..2}.tar")) == names
    assert expand_urls(str(tmp_path / "a-*.tar")) == names
    assert expand_urls("https://example.org/a-{0..1}.tar") == [f"https://example.org/a-{i}.tar" for i in range(2)]
    assert any_exists(str(tmp_path / "a-{2..9}.tar"))
    assert not any_exists([str(tmp_path / "b-*.tar"), str(tmp_path / "c.tar")])
    with pytest.raises(DataError, match=r"a-3\.tar, .* and 3 more"):
        expand_urls(str(tmp_path / "a-{0..8}.tar"))


def test_latent_statistics_follow_the_law_of_total_covariance(monkeypatch):
    """Mean and covariance are those of draws; features count only where present."""
    monkeypatch.setattr(latent_store, "STATISTICS_ROWS", 900)
    torch.manual_seed(0)
    presence = torch.rand(4000, 2) < 0.7
    store = LatentStore(
        3 * torch.randn(4000, 2) @ torch.tensor([[1.0, 0.5], [0.0, 1.0]]) + 5,
        torch.tensor([0.0, 1.0]).expand(4000, -1).contiguous(),
        (torch.randn(4000, 2, 3) * 2 + 1) * presence[:, :, None],
        presence,
    )
    z_mean, z_covariance, h_mean, h_std, num_rows = latent_store.latent_statistics(store)
    z = store.sample()
    torch.testing.assert_close(z_mean, z.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(z_covariance, z.T.cov(), atol=0.15, rtol=0.03)
    assert num_rows == 4000
    torch.testing.assert_close(h_mean, torch.ones(2, 3), atol=0.15, rtol=0)
    torch.testing.assert_close(h_std, torch.full((2, 3), 2.0), atol=0.15, rtol=0)
