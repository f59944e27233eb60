"""Data sets of the `datasets` library, made here: saved ones, data files, and a cache."""

import io
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from shala_datasets import HuggingFace

from shala_framework.plugin import Account, DataError, Sample


def read(source: Path, **options: Any) -> tuple[list[Sample], list[str]]:
    """Samples in order, and notes."""
    account = Account()
    return list(HuggingFace(HuggingFace.Options(**options)).samples(source, account)), account.notes


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The library, offline and with a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


def pets(library: Any, number: int = 3) -> Any:
    features = library.Features(
        image=library.Image(), text=library.Value("string"), label=library.ClassLabel(names=["cat", "dog"]),
        age=library.Value("float32"), sizes=library.List(library.Value("int64")),
    )  # fmt: skip
    rows = {
        "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in range(number)],
        "text": [None if n == 1 else f"pet {n}" for n in range(number)],
        "label": [(0, 1, -1)[n % 3] for n in range(number)],
        "age": [None if n == 2 else n + 0.5 for n in range(number)],
        "sizes": [[n, 2 * n] for n in range(number)],
    }
    return library.Dataset.from_dict(rows, features=features)


COLUMNS = {"image": "png", "text": "txt", "age": "table.json", "sizes": "v.npy"}


def test_a_saved_data_set_keeps_splits_classes_and_files(library: Any, tmp_path: Path) -> None:
    """Media are the stored bytes, classes have names, missing cells are missing fields, unknown splits are noted."""
    library.DatasetDict(train=pets(library), validation=pets(library, 1), extra=pets(library, 1)).save_to_disk(
        tmp_path / "s"
    )
    samples, notes = read(tmp_path / "s", columns=COLUMNS)
    assert [(sample.key, sample.split, sample.label, sorted(sample.fields)) for sample in samples] == [
        ("000001", "train", "cat", ["png", "table.json", "txt", "v.npy"]),
        ("000002", "train", "dog", ["png", "table.json", "v.npy"]),
        ("000003", "train", None, ["png", "txt", "v.npy"]),
        ("000004", "validation", "cat", ["png", "table.json", "txt", "v.npy"]),
    ]
    assert samples[2].fields["png"] == picture(2)
    assert json.loads(samples[1].fields["table.json"]) == {"age": 1.5}
    assert notes[0].startswith("split 'extra' left out: it is none of train")
    others, _ = read(tmp_path / "s", columns={"*": "table.json", "sizes": "v.npy"})
    assert json.loads(others[0].fields["table.json"]) == {"text": "pet 0", "age": 0.5}


def test_data_files_and_a_cache_give_the_same_rows(library: Any, tmp_path: Path) -> None:
    """Parquet files are read where they lie; a name is looked up in a cache, and never in a network."""
    (tmp_path / "files").mkdir()
    pets(library, 40).to_parquet(str(tmp_path / "files/train.parquet"))
    columns = {"image": "png", "text": "txt"}
    samples, notes = read(tmp_path / "files", columns=columns)
    assert len(samples) == 40
    assert set(Counter(sample.split for sample in samples)) == {"train", "validation", "test"}
    assert samples[7].fields == {"png": picture(7), "txt": b"pet 7"}
    assert "1 of 40 samples without txt" in notes
    cache = tmp_path / "cache"
    library.load_dataset("parquet", data_dir=str(tmp_path / "files"), cache_dir=str(cache))
    (made,) = cache.glob("parquet/*/*/*/")
    kept = cache / "me___pets" / "default" / "0.0.0" / ("0" * 40)
    shutil.copytree(made, kept)
    for path in kept.glob("*.arrow"):
        path.rename(path.with_name(path.name.replace("parquet-", "pets-")))
    (kept / "dataset_info.json").write_text(
        (kept / "dataset_info.json").read_text().replace('"dataset_name": "parquet"', '"dataset_name": "pets"')
    )
    cached, _ = read(cache, name="me/pets", columns=columns)
    assert cached == samples
    with pytest.raises(DataError, match=r"expected a data set that `save_to_disk` wrote, .*got: "):
        read(cache, name="me/absent", columns=columns)


def test_wrong_columns_and_folders_say_what_is_there(library: Any, tmp_path: Path) -> None:
    """No columns, an unknown one, and a folder without data."""
    pets(library).save_to_disk(tmp_path / "s")
    with pytest.raises(
        DataError, match=r"expected columns that become fields, got none; .*the columns are 'image', 'text'"
    ):
        read(tmp_path / "s")
    with pytest.raises(DataError, match=r"expected a column 'txet' \(option columns\), .* did you mean 'text'"):
        read(tmp_path / "s", columns={"txet": "txt"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected a data set that `save_to_disk` wrote"):
        read(tmp_path / "empty", columns={"text": "txt"})


def test_without_the_library_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"needs the package datasets: pip install '\./plugins/shala-datasets\[huggingface\]'"
    ):
        read(tmp_path, columns={"text": "txt"})
