"""Methods of inference with every prior, at equal training rows: one table, by `shala sweep` and `shala compare` alone.

    python benchmarks/equal_rows.py specs/polymnist.toml --out RESULTS [--rows 300000] [--seeds 0,1,2]
        [--methods shala plain mvae mmvae mmvaeplus cmvae mopoe mvtcae jmvae mld]
        [--kl-weights 1,4,16] [--set KEY=VALUE]... [--split test] [--part I/N] [--equal-time] [--collect FOLDER]
        [--dry-run]

Each method is a sweep over the seeds in a folder of its own, with the encoders, decoders, stage 2 and evaluation of the
spec, and as many rows in stage 1; the suite "multimodal-vae" measures each under the diffusion prior, the Gaussian
mixture and N(0, I), on test rows: stages keep their weights by validation rows. The same command resumes, and --part
does one part of each sweep, as in a job array. Without it the command ends with the table: RESULTS/table.csv and
RESULTS/table.tex, and printed.

--collect copies spec.json and the evaluation of every run, which is all that a table reads, to FOLDER/METHOD/seed-SEED,
and the table is of all that lie there: of runs that different machines made at different times.

A spec with train.minutes, such as that of NTU's stand-in, does not get a number of rows: it needs --equal-time in place
of --rows, and compares methods after that time on this machine, which nothing else should use meanwhile. --set
train.minutes=none takes the time limit out.

Three methods need sizes of their own: MMVAE+ and CMVAE have 32 dimensions that are shared and 32 for each modality, and
MLD has 160 for each and a denoiser of 1,536 channels, as published for PolyMNIST, but for CMVAE, whose sizes are those
of MMVAE+ (--private-dim and --mld-dim). The terms that this framework adds to stage 1 are for its own method alone, and
"plain" is that method without them. All methods have the spec's KL weight, in place of the factors that their papers
give it: those belong to a Laplace likelihood of fixed scale, beside which the learned scales of this framework's
decoders make a picture weigh several times as much. A spec's weight was found for its own method, and one weight does
not suit all: --kl-weights trains each method's first seed with each of them in RESULTS/METHOD/kl-WEIGHT, and keeps the
one with which coherence is highest on validation rows, on average over joint samples of the diffusion prior and samples
given one modality. Only with that weight are further seeds trained, and test rows scored. MLD has no such weight. With
--collect, FOLDER/METHOD/kl_weight.json keeps the choice for other machines, and runs are in FOLDER/METHOD/kl-WEIGHT.

MMVAE decodes 30 latents for each expert, row and modality, so that its rows take longest; --mmvae-samples lowers that
number, and the table then is not of the published setting.
"""

import argparse
import json
import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import attrs

from shala_framework.data.splits import EvaluatedSplit
from shala_framework.evaluation.measurements import COHERENCE, GIVEN, JOINT, measurements
from shala_framework.run.comparing import read_evaluated_run
from shala_framework.run.sweeping import SweptRun, plan_sweep
from shala_framework.spec import read_spec, unstructure
from shala_framework.spec.later_keys import with_later_keys
from shala_framework.spec.schema import Spec

OWN = "shala"
CHOSEN_BY = {JOINT: COHERENCE, GIVEN: f"{COHERENCE}, 1 given"}  # sections and their metrics, of the diffusion prior
DIFFUSION = "diffusion"
KL_WEIGHT = "train.autoencoder.kl_weight"
WITHOUT_KL = ("mld",)  # methods that no weight of the KL term changes
PLAIN = "plain"  # the own method without the terms that this framework adds
METHODS = (OWN, PLAIN, "mvae", "mmvae", "mmvaeplus", "cmvae", "mopoe", "mvtcae", "jmvae", "mld")
WITHOUT_TERMS = {f"posterior.{term}_weight": "0" for term in ("contrast", "recognition", "texture")}
WARMUP_SHARE = 0.1  # of the steps of stage 1, over which kl_weight grows
MLD_JOINT_SHARE = "0.8"  # of the rows of stage 2 in which nothing is given, as published
MLD_WIDTH = "1536"  # of its denoiser, as published; it has to be above the number of dimensions
ONE_FACTOR = {"posterior.options": "{beta=1}"}  # of the KL term, beside the spec's weight


@attrs.frozen(kw_only=True)
class Settings:
    """What the methods have in common, and the sizes of those that need their own.

    Attributes:
        spec: Path of the spec.
        out: Folder of the sweeps and of the table.
        rows: Rows of stage 1; None leaves its length to the spec's train.minutes.
        seeds: Seeds, separated by commas.
        changes: Further overrides of the spec, each as `KEY=VALUE`.
        split: Split that is scored.
        part: Part of each sweep, as `I/N`.
        private_dim: Dimensions of the shared latent of MMVAE+ and CMVAE, and of each private one.
        mld_dim: Dimensions of each modality's latent of MLD.
        mmvae_samples: Draws K of each expert of MMVAE.
        kl_weights: Weights of the KL term that each method chooses from; without any, all have the spec's.
        collect: Folder of the evaluations of all machines' runs; None makes the table of this machine's runs.
    """

    spec: Path
    out: Path
    rows: int | None
    seeds: str
    changes: Sequence[str]
    split: str
    part: str
    private_dim: int
    mld_dim: int
    mmvae_samples: int
    kl_weights: Sequence[str]
    collect: Path | None

    def weights(self, method: str) -> Sequence[str]:
        """Weights of the KL term that a method chooses from."""
        return () if method in WITHOUT_KL else self.kl_weights

    def place(self, method: str, weight: str | None) -> str:
        """Folder of a method's runs, inside that of all."""
        return method if weight is None else f"{method}/kl-{weight}"

    def overrides(self, method: str, spec: Spec, weight: str | None = None) -> dict[str, str]:
        """Keys and values that a method's sweep has."""
        length: dict[str, str] = {}
        if self.rows is not None:
            steps = max(1, self.rows // spec.train.autoencoder.batch_size)
            length["train.autoencoder.steps"] = str(steps)
            length["train.autoencoder.kl_warmup_steps"] = str(max(1, int(WARMUP_SHARE * steps)))
        count = len(spec.modality)
        private = {"posterior.latent_dim": str(self.private_dim * (count + 1))}
        own: Mapping[str, Mapping[str, str]] = {
            "mmvae": {"posterior.options": f"{{num_samples={self.mmvae_samples}}}"},
            "mmvaeplus": {**private, **ONE_FACTOR},
            "cmvae": private,
            "mopoe": ONE_FACTOR,
            "mvtcae": ONE_FACTOR,
            "mld": {
                "posterior.feature_dim": str(self.mld_dim),
                "posterior.latent_dim": str(self.mld_dim * count),
                "prior.unconditional_share": MLD_JOINT_SHARE,
                "prior.hidden_dim": MLD_WIDTH,
            },
        }
        return {
            "posterior.method": OWN if method == PLAIN else method,
            "seed": self.seeds,
            **length,
            **({} if weight is None else {KL_WEIGHT: weight}),
            "evaluate.suite": "multimodal-vae",
            **({} if method == OWN else WITHOUT_TERMS),
            **own.get(method, {}),
            **dict(text.split("=", 1) for text in self.changes),
        }

    def sweep(self, method: str, spec: Spec, weight: str | None = None, *, choosing: bool = False) -> list[str]:
        """Arguments of `shala` that train and evaluate a method's runs, or the one by which a weight is chosen."""
        sets = [part for text in self.texts(method, spec, weight, choosing=choosing) for part in ("--set", text)]
        split = "validation" if choosing else self.split
        rest = ["--split", split, "--out", str(self.out / self.place(method, weight)), "--part", self.part]
        return ["sweep", str(self.spec), *sets, *rest]

    def texts(self, method: str, spec: Spec, weight: str | None, *, choosing: bool = False) -> list[str]:
        """Overrides of a method's runs, or of the one by which a weight is chosen, each as `KEY=VALUE`."""
        values = self.overrides(method, spec, weight)
        if choosing:
            values["seed"] = self.seeds.split(",")[0]
        return [f"{key}={value}" for key, value in values.items()]

    def runs(self, method: str, spec: Spec, weight: str | None, *, choosing: bool = False) -> list[SweptRun]:
        """The runs of `sweep`."""
        split: EvaluatedSplit = "test" if self.split == "test" and not choosing else "validation"
        texts = self.texts(method, spec, weight, choosing=choosing)
        return plan_sweep(self.spec, texts, self.out / self.place(method, weight), split)

    def choose(self, method: str, spec: Spec) -> str:
        """Return the weight with which a method's first seed does best on validation rows, and print all.

        Raises:
            SystemExit: A run has no coherence by which to choose.
        """
        scores: dict[str, float] = {}
        for weight in self.kl_weights:
            (run,) = self.runs(method, spec, weight, choosing=True)
            found = {
                (m.metric.section, m.metric.name): m.figure.value
                for m in measurements(read_evaluated_run(run.folder, "validation").saved.evaluation)
                if m.method == DIFFUSION
            }
            lacking = [f"{name} of {section}" for section, name in CHOSEN_BY.items() if (section, name) not in found]
            if lacking:
                raise SystemExit(f"{run.folder}: its evaluation has no {lacking[0]}, by which --kl-weights chooses")
            scores[weight] = mean(found[metric] for metric in CHOSEN_BY.items())
        best = max(scores, key=lambda weight: scores[weight])
        listed = ", ".join(f"{weight}: {score:.3f}" for weight, score in scores.items())
        print(f"{method}: kl_weight {best}; coherence on validation rows, joint and given one: {listed}", flush=True)
        return best

    def kept_choice(self, method: str) -> str | None:
        """Return the weight that an earlier call, maybe of another machine, chose for a method.

        Raises:
            SystemExit: It chose from other weights.
        """
        file = self.choice_file(method)
        if file is None or not file.exists():
            return None
        kept = json.loads(file.read_text())
        if kept["of"] != list(self.kl_weights):
            raise SystemExit(f"{file}: chosen from {kept['of']}, not {list(self.kl_weights)}; name another folder")
        chosen: str = kept["kl_weight"]
        return chosen

    def keep_choice(self, method: str, weight: str) -> None:
        """Keep the weight for calls on other machines."""
        if file := self.choice_file(method):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"kl_weight": weight, "of": list(self.kl_weights)}))

    def choice_file(self, method: str) -> Path | None:
        """File of the weight that was chosen for a method."""
        return self.collect / method / "kl_weight.json" if self.collect and self.weights(method) else None

    def comparison(self, runs: Sequence[Path]) -> list[str]:
        """Arguments of `shala` that put evaluated runs into one table."""
        tables = ["--csv", str(self.out / "table.csv"), "--latex", str(self.out / "table.tex")]
        keys = ["posterior.method", "posterior.contrast_weight"]
        keys += [KL_WEIGHT] if self.kl_weights else []
        rows = [part for key in keys for part in ("--by", key)]
        return ["compare", *sorted(map(str, runs)), *rows, "--split", self.split, *tables]

    def collected(self, method: str) -> list[Path]:
        """Folders of a method's runs that all machines have kept."""
        if self.collect is None:
            return []
        chosen = self.kept_choice(method)
        if chosen is None and self.weights(method):
            return []
        pattern = f"{self.place(method, chosen)}/seed-*/evaluation/{self.split}.json"
        return [path.parents[1] for path in self.collect.glob(pattern)]

    def kept_runs(self, method: str, spec: Spec, folder: Path, weight: str | None = None) -> dict[Path, SweptRun]:
        """Return a method's runs by the folders, of the method and the seed, that keep what a table reads of them.

        Raises:
            SystemExit: Such a folder has the run of another spec.
        """
        place = folder / self.place(method, weight)
        found = {place / f"seed-{run.loaded.spec.seed}": run for run in self.runs(method, spec, weight)}
        for kept, run in found.items() if spec.train.minutes is None else ():  # a time limit decides on steps anew
            file, asked = kept / "spec.json", json.loads(json.dumps(unstructure(run.loaded.spec)))
            if file.exists() and with_later_keys(json.loads(file.read_text())["spec"]) != asked:
                raise SystemExit(f"{kept} has a run of another spec; name another folder for --collect, or remove it")
        return found

    def copy_evaluations(self, method: str, spec: Spec, folder: Path, weight: str | None) -> None:
        """Copy what a table reads of a method's evaluated runs."""
        for kept, run in self.kept_runs(method, spec, folder, weight).items():
            for file in ("spec.json", f"evaluation/{self.split}.json") if run.is_evaluated() else ():
                (kept / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run.folder / file, kept / file)


def parsed_weights(text: str) -> list[str]:
    """Weights of the KL term, each once, as their folders name them."""
    try:
        found = [f"{float(piece):g}" for piece in text.split(",")]
        if len(set(found)) == len(found) and all(0 < float(weight) < math.inf for weight in found):
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected different numbers above 0, such as 1,4,16, got {text!r}")


def shala(arguments: Sequence[str], *, dry_run: bool) -> None:
    """Run the command, or print it."""
    if dry_run:
        print(shlex.join(["shala", *arguments]))
    else:
        subprocess.run([sys.executable, "-m", "shala_framework", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="split that is scored")
    parser.add_argument("--part", default="1/1", metavar="I/N")
    parser.add_argument("--private-dim", type=int, default=32, help="of MMVAE+ and CMVAE, shared and of each modality")
    parser.add_argument("--mld-dim", type=int, default=160, help="of each modality's latent of MLD")
    parser.add_argument("--mmvae-samples", type=int, default=30, help="draws of each expert of MMVAE")
    parser.add_argument("--kl-weights", type=parsed_weights, default=[], metavar="W,W,...", help="each method's best")
    parser.add_argument("--equal-time", action="store_true", help="as long as train.minutes says, in place of --rows")
    parser.add_argument("--collect", type=Path, metavar="FOLDER", help="keep what tables read of all machines' runs")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and stop")
    given = vars(parser.parse_args())
    methods, dry_run, equal_time = (given.pop(name) for name in ("methods", "dry_run", "equal_time"))
    settings = Settings(**{**given, "rows": None if equal_time else given["rows"]})
    spec = read_spec(settings.spec, settings.changes).spec
    minutes = spec.train.minutes
    if equal_time != (minutes is not None):
        problem = (
            "no train.minutes; leave out --equal-time"
            if minutes is None
            else f"train.minutes = {minutes:g}, which decides how long stages train; add --equal-time, or "
            "--set train.minutes=none for equal rows"
        )
        parser.error(f"{settings.spec} has {problem}")
    if settings.kl_weights and (settings.split != "test" or settings.part != "1/1"):
        parser.error("--kl-weights chooses by validation rows, from runs of one call: leave out --split and --part")
    if settings.kl_weights and any(text.split("=")[0].strip() == KL_WEIGHT for text in settings.changes):
        parser.error(f"--kl-weights and --set {KL_WEIGHT} both give the weight; leave out one of them")
    for method in METHODS:  # refuses before anything is trained, also what only the table reads
        settings.kept_choice(method)
    for method in methods:
        for weight in settings.weights(method) or (None,):
            settings.runs(method, spec, weight)
            if settings.collect:
                settings.kept_runs(method, spec, settings.collect, weight)
    compared: list[Path] = []
    for method in methods:
        chosen = settings.kept_choice(method)
        if settings.weights(method) and chosen is None:
            for weight in settings.weights(method):
                shala(settings.sweep(method, spec, weight, choosing=True), dry_run=dry_run)
            chosen = "CHOSEN" if dry_run else settings.choose(method, spec)
        shala(settings.sweep(method, spec, chosen), dry_run=dry_run)
        if dry_run:
            continue
        compared += [run.folder for run in settings.runs(method, spec, chosen) if run.is_evaluated()]
        if settings.collect:
            settings.keep_choice(method, chosen or "")
            settings.copy_evaluations(method, spec, settings.collect, chosen)
    if settings.part == "1/1":
        if settings.collect:
            compared = [run for method in METHODS for run in settings.collected(method)]
        shala(settings.comparison(compared), dry_run=dry_run)


if __name__ == "__main__":
    main()
