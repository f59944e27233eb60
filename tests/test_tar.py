"""Tar files of other programs: each member is read, is counted and named, or is an error."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from two_floats import Made, MadeOptions

from shala_framework.cli.main import main
from shala_framework.data.packing import pack
from shala_framework.data.random_access import index_shards, read_in_order
from shala_framework.data.shards import read_shards
from shala_framework.data.tally import Tally
from shala_framework.data.tar import TarReader, split_name
from shala_framework.support.errors import DataError


def write(path: Path, members, **options) -> str:
    """Write a tar file of (name, content) pairs and of raw headers."""
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return str(path)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def both_ways(url: str) -> tuple[list, list]:
    """Read keys and fields from start to end, and by scanning the file first."""
    read = [(sample.key, sample.fields) for sample in read_shards([url])]
    scanned = [(sample.key, sample.fields) for sample in read_in_order([url])]
    return read, scanned


READERS: list[Callable] = [lambda urls, **kw: list(read_shards(urls, **kw)), index_shards]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_programs_write_is_read(tmp_path, form):
    """Long names, folders, capitals, non-ASCII letters and empty files give the same in both ways of reading."""
    names = ["a/b/0001.JPG", "a/b/0001.txt", "a.b/0002.skeleton.JSON", "\u00e9\u4e2d.txt", "empty.txt"]
    if form != tarfile.USTAR_FORMAT:
        names.append("folder/" * 60 + "long.txt")
    folder = special("a", tarfile.DIRTYPE)
    members = [folder, *((name, b"" if "empty" in name else name.encode()) for name in names)]
    url = write(tmp_path / "x.tar", members, format=form)
    tally = Tally()
    list(read_shards([url], tally=tally))
    assert not tally
    expected = [
        ("a/b/0001", {"jpg": b"a/b/0001.JPG", "txt": b"a/b/0001.txt"}),
        ("a.b/0002", {"skeleton.json": b"a.b/0002.skeleton.JSON"}),
        ("\u00e9\u4e2d", {"txt": "\u00e9\u4e2d.txt".encode()}),
        ("empty", {"txt": b""}),
        *((name.removesuffix(".txt"), {"txt": name.encode()}) for name in names[5:]),
    ]
    assert both_ways(url) == (expected, expected)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar program")
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_the_tar_program_writes_is_read(tmp_path, form):
    """Each of its formats works, with names as long as the format allows."""
    name = ("d" * 40 + "/") * (1 if form == "v7" else 2 if form == "ustar" else 6) + "k.txt"
    path = tmp_path / "files" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"text" * 1000)
    url = str(tmp_path / "x.tar")
    subprocess.run(["tar", "--format", form, "-cf", url, "-C", tmp_path / "files", "."], check=True)
    expected = [(f"./{name.removesuffix('.txt')}", {"txt": b"text" * 1000})]
    assert both_ways(url) == (expected, expected)


@pytest.mark.parametrize("read", READERS)
def test_members_that_are_no_fields_are_counted_and_named(tmp_path, read):
    """Members are files of macOS, hidden files, files without an extension and names that WebDataset reserves."""
    names = ["README", "d/._0001.jpg", "._0001.jpg", ".DS_Store", "d/.jpg", "__meta__/x.txt", "0001.jpg"]
    tally = Tally()
    read([write(tmp_path / "x.tar", [(name, b"x") for name in names])], tally=tally)
    assert tally.sentences() == [
        "skipped files without an extension in the shards (1): 'README'",
        "skipped AppleDouble files of macOS in the shards (2): 'd/._0001.jpg', '._0001.jpg'",
        "skipped hidden files in the shards (2): '.DS_Store', 'd/.jpg'",
        "skipped names that WebDataset reserves in the shards (1): '__meta__/x.txt'",
    ]


def test_an_index_names_what_it_leaves_out(tmp_path, capsys):
    """`shala index` is the last to see them, because a run then reads by the index."""
    write(tmp_path / "x.tar", [("README", b"x"), ("k.a", b"x")])
    assert call("index", str(tmp_path)) == 0
    assert "skipped files without an extension in the shards (1): 'README'" in capsys.readouterr().err


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.LNKTYPE, "'k2.a' is a hard link to 'k1.a' without bytes of its own; .*--hard-dereference"),
        (tarfile.SYMTYPE, "'k2.a' is a symbolic link to 'k1.a'"),
        (tarfile.CHRTYPE, "'k2.a' is a device, not a field"),
        (tarfile.FIFOTYPE, "'k2.a' is a FIFO"),
        (tarfile.GNUTYPE_SPARSE, "'k2.a' is a sparse file, not a field; .*without `tar --sparse`"),
        (b"Z", "'k2.a' is a member of the unknown type b'Z'"),
    ],
)
def test_members_that_would_be_lost_are_errors(tmp_path, read, kind, message):
    """A link or a sparse file would be a sample that lacks a modality or has wrong bytes."""
    members = [("k1.a", b"x"), special("k2.a", kind, "k1.a"), ("k3.a", b"x")]
    with pytest.raises(DataError, match=rf"x\.tar: {message}"):
        read([write(tmp_path / "x.tar", members)])


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar program")
@pytest.mark.parametrize("form", ["gnu", "posix"])
@pytest.mark.parametrize("read", READERS)
def test_sparse_files_of_the_tar_program_are_errors(tmp_path, read, form):
    """Both of its sparse formats are refused, because their bytes are not where the header says."""
    with (tmp_path / "k.a").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    subprocess.run(["tar", "--format", form, "--sparse", "-cf", tmp_path / "x.tar", "-C", tmp_path, "k.a"], check=True)
    with pytest.raises(DataError, match="sparse file"):
        read([str(tmp_path / "x.tar")])


def header(name: str = "k.a", size: bytes = b"00000000001\0", kind: bytes = b"0") -> bytes:
    """Return a header with any size field and a valid checksum."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def content(text: bytes) -> bytes:
    return text + bytes(-len(text) % 512)


def pax(records: bytes) -> bytes:
    return header("pax", b"%011o\0" % len(records), b"x") + content(records)


END = bytes(1024)
GIGABYTE = b"%011o\0" % (1 << 30)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (header(size=GIGABYTE) + content(b"x") + END, "'k.a' declares 1,073,741,824 bytes, and 1,536 are left"),
        (header(size=b"\x80" + b"\xff" * 11) + END, "'k.a' declares [0-9,]+ bytes, and 1,024 are left"),
        (header(size=b"\xff" * 12) + END, "header at byte 0 states the size .*; expected an octal number"),
        (header(size=b"-0000000001\0") + END, "header at byte 0 states the size b'-0000"),
        (header(size=b"0x00000001 \0") + END, "header at byte 0 states the size b'0x"),
        (pax(b"12 size=-99\n") + header() + content(b"x") + END, "states the size b'-99'"),
        (pax(b"20 size=9999999999\n\0") + header() + END, "the extended header at byte 0 has no valid records"),
        (pax(b"19 size=9999999999\n") + header() + END, "'k.a' declares 9,999,999,999 bytes"),
        (header(kind=b"x", size=GIGABYTE) + END, "the extended header at byte 0 declares 1,073,741,824 bytes"),
        (header(kind=b"L", size=GIGABYTE) + END, "the extended header at byte 0 declares 1,073,741,824 bytes"),
        (pax(b"10 path=a\n") + END, "the end mark follows an extended header"),
    ],
)
def test_what_a_header_declares_is_checked_before_it_is_read(tmp_path, read, blocks, message):
    """Sizes beyond the end of the file, negative ones and non-numbers are refused in every place."""
    path = tmp_path / "x.tar"
    path.write_bytes(blocks)
    with pytest.raises(DataError, match=rf"x\.tar: not a readable shard: .*{message}"):
        read([str(path)])


@pytest.mark.parametrize("indexed", [False, True])
def test_a_field_that_is_too_large_is_refused_unread(tmp_path, indexed):
    """For a member of 64 GiB, which is a hole in the file, the error names the key that allows more."""
    path = tmp_path / "x.tar"
    size = 1 << 36
    with path.open("wb") as file:
        file.write(header(size=b"\x80" + size.to_bytes(11, "big")))
        file.truncate(512 + size + 1024)
    expected = r"field 'a' declares 68,719,476,736 bytes; expected at most 268,435,456, .*data\.max_field_bytes"
    with pytest.raises(DataError, match=rf"x\.tar: sample 'k': {expected}"):
        next(read_in_order([str(path)]) if indexed else read_shards([str(path)]))
    small = write(tmp_path / "y.tar", [("k.a", b"12345"), ("k.b", b"1")])
    with pytest.raises(DataError, match="declares 5 bytes; expected at most 4"):
        list(read_shards([small], max_field_bytes=4))
    with pytest.raises(DataError, match="declares 5 bytes; expected at most 4"):
        list(read_in_order([small], max_field_bytes=4))
    assert [s.fields for s in read_shards([small], wanted={"b"}, max_field_bytes=4)] == [{"b": b"1"}]


@pytest.mark.parametrize("read", READERS)
def test_nothing_follows_the_end_mark(tmp_path, read):
    """Archives joined by `cat` are an error with the position of the second, and so is anything else but zeros."""
    first = Path(write(tmp_path / "a.tar", [("k1.a", b"x")])).read_bytes()
    second = Path(write(tmp_path / "b.tar", [("k2.a", b"x")])).read_bytes()
    both = tmp_path / "x.tar"
    both.write_bytes(first + second)
    with pytest.raises(DataError, match=r"x\.tar: a second archive begins at byte 10,240, .*tar --concatenate"):
        read([str(both)])
    both.write_bytes(first + b"more" + bytes(2044))
    with pytest.raises(DataError, match="damaged: bytes that are not zero at 10,240, after the end mark"):
        read([str(both)])
    both.write_bytes(first + bytes(100_000))
    read([str(both)])


@pytest.mark.parametrize("read", READERS)
def test_a_file_of_zeros_is_reported(tmp_path, read):
    """It is a valid archive without members, or what a failed disk left of one."""
    (tmp_path / "x.tar").write_bytes(bytes(10_240))
    tally = Tally()
    read([write(tmp_path / "a.tar", [("k.a", b"x")]), str(tmp_path / "x.tar")], tally=tally)
    assert tally.sentences() == [f"skipped tar files without a sample in the shards (1): '{tmp_path}/x.tar'"]


@pytest.mark.parametrize("read", READERS)
def test_a_damaged_header_is_never_the_end(tmp_path, read):
    """With a flipped bit in the second of three headers, `tarfile` reports one member and no error."""
    path = Path(write(tmp_path / "x.tar", [(f"k{i}.a", b"x") for i in range(3)]))
    damaged = bytearray(path.read_bytes())
    damaged[1024 + 101] ^= 1
    path.write_bytes(damaged)
    with tarfile.open(path) as tar:
        assert len(tar.getnames()) == 1
    with pytest.raises(DataError, match="the header at byte 1,024 does not match its checksum"):
        read([str(path)])


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar", "x.tar.bz2", "x.tar.xz"])
def test_compressed_shards_are_read_from_their_start(tmp_path, name):
    """The name does not matter, nor does an index of plain shards nearby; a truncated one is an error."""
    report = pack(Made(MadeOptions(train=30)), None, tmp_path)
    expected = list(read_shards([str(report.shards[0])]))
    compress = bz2.compress if name.endswith("bz2") else lzma.compress if name.endswith("xz") else gzip.compress
    folder = tmp_path / "other" if name.endswith(".tar") else tmp_path
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(compress(report.shards[0].read_bytes()))
    assert index_shards([str(path)]) is None
    assert [(s.key, s.fields) for s in read_in_order([str(path)])] == [(s.key, s.fields) for s in expected]
    for cut in (20, len(path.read_bytes()) - 12):
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DataError, match="not a readable shard"):
            list(read_in_order([str(path)]))


def test_other_archives_are_named(tmp_path, capsys):
    """Files that are not tar files are named, and so are compressed shards if an index is required."""
    for start, name in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")):
        path = tmp_path / "x.tar"
        path.write_bytes(start + bytes(2000) + b"x")
        for read in READERS:
            with pytest.raises(DataError, match=rf"expected a tar file, .* got a .*{name}"):
                read([str(path)])
    path.unlink()
    (tmp_path / "x.tar.gz").write_bytes(b"")
    assert call("index", str(tmp_path)) == 2
    assert "x.tar.gz is compressed, and an index needs plain tar files" in capsys.readouterr().err


def members_by_tarfile(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar if info.isreg()]


def test_mutated_tar_files_give_what_tarfile_gives_or_an_error(tmp_path):
    """3,000 files with changed, doubled or removed bytes give an error or what `tarfile` reads."""
    rng = random.Random(0)
    names = ["a/1.x", "a/1.y", "n" * 120 + "/2.x", "\u00e9.x", "3.x"]
    wholes = [
        Path(write(tmp_path / f"{form}.tar", [(n, n.encode() * 50) for n in names], format=form)).read_bytes()
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ]
    outcomes = {"error": 0, "read": 0, "read here alone": 0}
    for _ in range(3_000):
        which = rng.randrange(2)
        data = bytearray(wholes[which])
        used = len(data.rstrip(b"\0"))
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(used)
            if rng.random() < 0.5:
                place = place // 512 * 512 + rng.choice([0, 124, 130, 148, 156, 257, 345])
            action = rng.randrange(4)
            if action == 0:
                data[place] = rng.randrange(256)
            elif action == 1:
                data[place : place + 512] = bytes(512)
            elif action == 2:
                del data[place : place + rng.choice([1, 512])]
            else:
                data[place:place] = data[rng.randrange(used) :][: rng.choice([1, 512])]
        if rng.random() < 0.5:  # the checksum detects most changes of a header
            for start in range(0, used, 512):
                block = data[start : start + 512]
                if block[257:262] == b"ustar":
                    block[148:156] = b" " * 8
                    data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        try:
            reader = TarReader(io.BytesIO(data), len(data))
            found = [(field.key, reader.read(field)) for field in reader]
        except (DataError, tarfile.ReadError):
            outcomes["error"] += 1
            continue
        try:
            theirs = members_by_tarfile(bytes(data))
        except tarfile.ReadError:  # such as an owner that is not a number, which does not matter here
            outcomes["read here alone"] += 1
            continue
        outcomes["read"] += 1
        theirs = [content for name, content in theirs if split_name(name)[0]]
        assert [content for _, content in found][: len(theirs)] == theirs  # it mistakes some damage for the end
    assert outcomes["error"] > 300
    assert outcomes["read"] > 300
    assert outcomes["read here alone"] < 100
