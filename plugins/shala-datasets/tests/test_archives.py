"""Unpacked folders and tar archives give the same files, and never silently a part of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shala_datasets.archives import files_in

from shala_framework.plugin import Account, DataError
from shala_framework.plugin.testing import damage

FILES = {"b.wav": b"second" * 200, "a.wav": b"first", "c/d.wav": b"third" * 300}
WANTED = [("a.wav", b"first"), ("b.wav", b"second" * 200), ("d.wav", b"third" * 300)]


def packed(files: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in {"readme.txt": b"no recording", **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def found(place: Path) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Files and notes."""
    account = Account()
    return list(files_in(place, ".wav", account)), account.notes


def test_folder_and_archives_give_the_same(tmp_path: Path) -> None:
    """Name and content of each file in the order of names, unpacked or in any compression, others left alone."""
    for name, content in FILES.items():
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "unpacked/readme.txt").write_bytes(b"no recording")
    assert found(tmp_path / "unpacked") == (WANTED, [])
    for mode, end in (("w", ".tar"), ("w:gz", ".tgz"), ("w:xz", ".tar.xz"), ("w:bz2", ".TAR.BZ2")):
        (tmp_path / end / "deep").mkdir(parents=True)
        (tmp_path / end / "deep" / f"files{end}").write_bytes(packed(FILES, mode))
        assert found(tmp_path / end) == (WANTED, [])


@pytest.mark.parametrize(("mode", "end"), [("w", ".tar"), ("w:xz", ".tar.xz"), ("w:gz", ".tar.gz")])
def test_a_cut_archive_never_passes_for_a_smaller_one(tmp_path: Path, mode: str, end: str) -> None:
    """Wherever an archive is cut there is an error that names it, or every file is there."""
    whole, path = packed(FILES, mode), tmp_path / f"files{end}"
    messages = []
    for length in range(0, len(whole), max(1, len(whole) // 100)):
        path.write_bytes(whole[:length])
        try:
            assert found(tmp_path) == (WANTED, [])
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(path) in message for message in messages)


def test_damaged_archives_end_in_files_or_an_error(tmp_path: Path) -> None:
    """100 damaged copies of each kind raise nothing but DataError."""
    generator, messages = np.random.default_rng(0), []
    for mode, end in (("w", ".tar"), ("w:xz", ".tar.xz"), ("w:gz", ".tar.gz")):
        whole, path = packed(FILES, mode), tmp_path / f"files{end}"
        for _ in range(100):
            path.write_bytes(damage(whole, generator))
            try:
                found(tmp_path)
            except DataError as error:
                messages.append(str(error))
        path.unlink()
    assert all(str(tmp_path / "files.tar") in message for message in messages)


def test_a_header_that_asks_for_everything_is_refused(tmp_path: Path) -> None:
    """A member of 8 GB by its header is an error before anything is allocated."""
    member = tarfile.TarInfo("huge.wav")
    member.size = 8 * 10**9
    (tmp_path / "files.tar").write_bytes(member.tobuf() + bytes(2048))
    with pytest.raises(DataError, match=r"files\.tar: expected an archive of at most .* 'huge\.wav' beyond"):
        found(tmp_path)


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    """Second files of one name, empty files, and an archive next to unpacked files are noted."""
    (tmp_path / "files.tar").write_bytes(packed({**FILES, "again/a.wav": b"other", "empty.wav": b""}))
    files, notes = found(tmp_path)
    assert files == WANTED
    assert notes == [
        "1 file left out, same name twice: files.tar/again/a.wav",
        "1 file left out, empty file: files.tar/empty.wav",
    ]
    (tmp_path / "x").mkdir()
    for name in ("a.wav", "x/a.wav"):
        (tmp_path / name).write_bytes(name.encode())
    files, notes = found(tmp_path)
    assert files == [("a.wav", b"a.wav")]
    assert notes == [
        "1 file left out, unpacked .wav files are next to it: files.tar",
        "1 file left out, same name twice: x/a.wav",
    ]


def test_neither_files_nor_one_archive_is_an_error(tmp_path: Path) -> None:
    """An empty folder and one with two archives say what is expected."""
    with pytest.raises(DataError, match=r"expected files \*\.wav or one archive.*0 archives"):
        found(tmp_path)
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(packed(FILES))
    with pytest.raises(DataError, match=r"2 archives: a\.tar, b\.tar"):
        found(tmp_path)
