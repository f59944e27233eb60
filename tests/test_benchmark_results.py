"""A benchmark's folder of results does not pass results of other settings for those of a call."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from scripts import claim_results


def test_a_folder_keeps_results_of_one_setting(tmp_path):
    """Equal settings resume, further ones are added, and a changed one is refused before anything is overwritten."""
    folder = tmp_path / "results"
    claim_results(folder, data=Path("somewhere/digits.npz"), rows=300_000, kl_weight=None)
    claim_results(folder, data=Path("elsewhere/digits.npz"), rows=300_000, kl_weight=None, refiner_rows=5)
    kept = (folder / "settings.json").read_bytes()
    for changed, message in (
        ({"rows": 100}, "rows 300000 there, 100 now"),
        ({"kl_weight": 4.0}, "kl_weight None there, 4.0 now"),
        ({"refiner_rows": 9}, "refiner_rows 5 there, 9 now"),
    ):
        with pytest.raises(SystemExit, match=message):
            claim_results(folder, **changed)
    assert (folder / "settings.json").read_bytes() == kept
