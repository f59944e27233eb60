"""The outcomes of runs and shards that are killed, damaged or written to a full disk; a campaign with a seed.

    python benchmarks/faults.py kills [--trials 60] [--seed 0]
    python benchmarks/faults.py damage [--trials 600]
    python benchmarks/faults.py disk [--trials 20]
    python benchmarks/faults.py specs|media|server ...

A trial has one of six outcomes. Good ones are `right` (the result of an undisturbed run, byte for byte) and `message`
(exit status 2 and one message, or a warning next to the result). Bad ones are `lost` (finished work cannot be resumed),
`silent` (another result without a message), `traceback` and `hang`. The table counts them by kind, and the exit status
is 1 if there is a bad one.

A campaign is a file `faults_<name>.py` next to this one, with a function `trials` from a `Setting` to trials and their
number COUNT.
"""

import argparse
import importlib
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_trials import FAKES, GOOD, ROOT, Setting, Trial, table

CAMPAIGNS = ("kills", "damage", "disk", "specs", "media", "server")


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the files in this new folder (default: a temporary one)")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(FAKES), str(ROOT), os.environ.get("PYTHONPATH"))))
    sys.path[:0] = [str(FAKES), str(ROOT)]
    campaign = importlib.import_module(f"faults_{args.campaign}")
    found: list[Trial] = []
    with _folder(args.out) as folder:
        for trial in campaign.trials(Setting(random.Random(args.seed), args.trials or campaign.COUNT, folder)):
            found.append(trial)
            if trial.outcome not in GOOD:
                print(
                    f"trial {len(found)}, {trial.kind}: {trial.outcome}\n{trial.detail}\n", file=sys.stderr, flush=True
                )
    print(table(found))
    raise SystemExit(any(trial.outcome not in GOOD for trial in found))


if __name__ == "__main__":
    main()
