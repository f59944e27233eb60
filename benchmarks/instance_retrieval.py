"""Is a sample the right instance? One view of a row given, another sampled, and looked for among the true pictures.

    python benchmarks/instance_retrieval.py runs/emoji [--split test] [--samples 1] [--judge-steps 400]
        [--judges instance] [--json FILE]

For every given modality and every other modality of pictures, a sample of each row is compared with the true pictures
of all rows of the split, in the features of a judge. A sample is right if its own row's picture is the nearest one. The
table has the share of right samples, the share whose own picture is among the five nearest, 95 % intervals from a
bootstrap over rows (or over evaluate.group), and both shares by chance. Of equal pictures either is right.

    mode             the modes of stage 1's decoders
    refined          the same latents with stage 3, where it is trained
    reconstruction   modes from the mean of q(z | all modalities of the row): what the latent can hold
    perturbed        the true picture, moved, scaled, recoloured, blurred and with noise: what the judge can tell

*Distance* is the Frechet distance, in the judge's features, between one sample of each row and pictures of training
rows; that of the true pictures of the split, as many, stands beside it.

There are two judges, which see training rows only.

"instance" is a small convolutional network for each modality, trained here by contrast: of all pictures in a batch it
finds the one that another perturbed copy was made of. It tells pictures apart that differ in anything but the
perturbations, so it is the judge to quote. It knows nothing of meaning: a right emoji drawn in another manner counts as
wrong, and blur beyond its perturbations can mislead it, in favour of refined samples.

"class" is the classifier that evaluation trains for a modality, with the plugin's own encoder. Its features keep what
tells classes apart, and need not differ between two rows of a class: with few classes its "perturbed" line is low, and
only ratios to that line mean anything. It is left out where rows have fewer than two classes.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from statistics import mean

import attrs
import torch
from torch import Tensor, nn

from shala_framework.data.latent_store import latents_of
from shala_framework.data.order import spread_positions
from shala_framework.data.rows import Rows, load_rows, shuffled_batches
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.attributes import find_attributes, known_values
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.judge_training import train_judge
from shala_framework.evaluation.judges import Judge
from shala_framework.evaluation.plain_encoder import PlainEncoder
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.model import ShaLa
from shala_framework.plugin import Draws, vary_pictures
from shala_framework.run.loading import load
from shala_framework.support.machine import describe_machine
from shala_framework.support.seeds import forked_rng, mix_seed

NEAR = 5  # number of nearest pictures among which the own one is looked for
TEMPERATURE = 0.1
REFERENCE_ROWS = 1_000  # training rows that distances are measured to
SAME = 1e-4  # distances that differ by less are equal
BATCH_SIZE, FEATURE_DIM, LEARNING_RATE = 128, 64, 2e-3


def perturbed(x: Tensor, seed: int) -> Tensor:
    """Return copies of pictures uint8 [B, C, H, W], each moved, scaled, recoloured, blurred and with noise."""
    draws = Draws(seed=seed, num_rows=len(x))
    moved = vary_pictures(
        x,
        draws,
        crop=0.15,
        shift_by=max(1, x.shape[-1] // 16),
        mirror=False,
        brightness=0.15,
        contrast=0.2,
        saturation=0.2,
    ).float()
    side = 2 * max(1, x.shape[-1] // 32) + 1
    blurred = nn.functional.avg_pool2d(moved, side, stride=1, padding=side // 2, count_include_pad=False)
    share, noise = draws.uniform(0, 1, 1, 1, 1), draws.uniform(0, 15, 1, 1, 1) * draws.normal(*x.shape[1:])
    return (moved + share * (blurred - moved) + noise).round().clamp(0, 255).to(torch.uint8)


class InstanceJudge(nn.Module):
    """Features of unit length, in which two perturbed copies of a picture are near and other pictures are far."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.encoder = PlainEncoder(x.shape[1:], x.dtype, FEATURE_DIM)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.encoder(x), dim=1)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        self.eval()
        return torch.cat([self(part) for part in x.split(256)])


def train_instance_judge(x: Tensor, steps: int, seed: int) -> InstanceJudge:
    """Train a judge on pictures uint8 [N, C, H, W] by InfoNCE between two perturbed copies."""
    with forked_rng():
        torch.manual_seed(seed)
        judge = InstanceJudge(x).train()
        optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
        batches = shuffled_batches(len(x), min(BATCH_SIZE, len(x)), seed)
        for step in range(steps):
            batch = x[next(batches)]
            one, other = (judge(perturbed(batch, mix_seed(seed, step, copy))) for copy in range(2))
            logits = one @ other.T / TEMPERATURE
            own = torch.arange(len(batch))
            loss = (nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def num_nearer(found_NF: Tensor, true_CF: Tensor, own_N: Tensor) -> Tensor:
    """Return how many of the true pictures are nearer to each sample than its own one: int64 [N].

    Args:
        found_NF: Features of the samples.
        true_CF: Features of the true pictures.
        own_N: Number of each sample's own picture among them.
    """
    distance_NC = torch.cdist(found_NF.double(), true_CF.double())
    own_N1 = distance_NC.gather(1, own_N[:, None])
    return (distance_NC < own_N1 - SAME).sum(1)


@attrs.frozen(kw_only=True)
class Line:
    """Shares of one kind of pictures.

    Attributes:
        judge: "instance" or "class".
        given: Modality that is given; "all" or "itself" for the references.
        target: Modality that is looked at.
        kind: "mode", "refined", "reconstruction" or "perturbed".
        right: Share of samples whose own picture is the nearest.
        near: Share of samples whose own picture is among the nearest five.
        num_pictures: Number of pictures to choose from.
        distance: Frechet distance between the first sample of each row and training pictures.
    """

    judge: str
    given: str
    target: str
    kind: str
    right: Figure
    near: Figure
    num_pictures: int
    distance: float


class Retrieval:
    """Looks for samples among the true pictures of a split.

    Args:
        rows: Rows of the split.
        judges: Judges of each modality of pictures, by their kind.
        groups_N: Groups of rows that the bootstrap draws together, or None.
        train: Training rows, whose pictures distances are measured to.
    """

    def __init__(
        self,
        rows: Rows,
        judges: dict[str, dict[str, InstanceJudge | Judge]],
        groups_N: Tensor | None,
        train: Rows,
    ) -> None:
        self.rows, self.judges, self.groups_N = rows, judges, groups_N
        few = train.take(torch.tensor(spread_positions(len(train), REFERENCE_ROWS)))
        self.reference = {
            (kind, name): judge.features(few.having([name]).x[name])
            for kind, of_kind in judges.items()
            for name, judge in of_kind.items()
        }
        self.names = list(rows.x)
        self.lines: list[Line] = []
        self.right: dict[tuple[str, str], list[Tensor]] = {}  # by judge and kind: [N], NaN where nothing was sampled

    def has(self, name: str) -> Tensor:
        """Return the numbers of the rows that have a modality."""
        return torch.nonzero(self.rows.presence[:, self.names.index(name)])[:, 0]

    def add(self, given: str, target: str, kind: str, x: Tensor, rows_K: Tensor) -> None:
        """Look for pictures x [K, S, ...], S of each row, by every judge."""
        candidates = self.has(target)
        place = torch.full((len(self.rows),), -1)
        place[candidates] = torch.arange(len(candidates))
        kept = place[rows_K] >= 0
        x, rows_K = x[kept], rows_K[kept]
        if not len(rows_K):
            return
        own = place[rows_K].repeat_interleave(x.shape[1])
        for kind_of_judge, judges in self.judges.items():
            if target not in judges:
                continue
            judge = judges[target]
            found_KF = judge.features(x.flatten(0, 1))
            nearer_KS = num_nearer(found_KF, judge.features(self.rows.x[target][candidates]), own).view(x.shape[:2])
            shares = []
            for most in (1, NEAR):
                values_SN = torch.full((x.shape[1], len(self.rows)), math.nan)
                values_SN[:, rows_K] = (nearer_KS < most).float().T
                shares.append(mean_figure(values_SN, self.groups_N))
                if most == 1:
                    self.right.setdefault((kind_of_judge, kind), []).append(values_SN.mean(0))
            self.lines.append(
                Line(
                    judge=kind_of_judge,
                    given=given,
                    target=target,
                    kind=kind,
                    right=shares[0],
                    near=shares[1],
                    num_pictures=len(candidates),
                    distance=frechet_distance(found_KF[:: x.shape[1]], self.reference[kind_of_judge, target]),
                )
            )

    def distances(self) -> dict[str, float]:
        """Return the mean distance over all pairs, by judge and kind."""
        found: dict[str, list[float]] = {}
        for line in self.lines:
            found.setdefault(f"{line.judge}, {line.kind}", []).append(line.distance)
        return {name: mean(values) for name, values in found.items()}

    def summary(self) -> dict[str, Figure]:
        """Return the share of right samples over all pairs, and of refined ones minus modes, by row."""
        found: dict[str, Figure] = {}
        for judge in self.judges:
            means = {kind: torch.stack(v).nanmean(0) for (of, kind), v in self.right.items() if of == judge}
            found |= {f"{judge}, {kind}": mean_figure(mean_N[None], self.groups_N) for kind, mean_N in means.items()}
            if "refined" in means and "mode" in means:
                # Only of targets that are refined, of which there is a value of either kind.
                pairs = {(line.given, line.target) for line in self.lines if line.kind == "refined"}
                modes = [line for line in self.lines if line.judge == judge and line.kind == "mode"]
                same = [
                    values
                    for line, values in zip(modes, self.right[judge, "mode"], strict=True)
                    if (line.given, line.target) in pairs
                ]
                difference_N = means["refined"] - torch.stack(same).nanmean(0)
                found[f"{judge}, refined minus mode"] = mean_figure(difference_N[None], self.groups_N)
        return found


def measure(model: ShaLa, retrieval: Retrieval, num_samples: int, seed: int) -> None:
    """Sample every modality given every single other one, and look for the samples and for the references."""
    rows = retrieval.rows
    targets = [name for name in retrieval.names if any(name in judges for judges in retrieval.judges.values())]
    kinds = {"mode": targets}
    if "refiner" in model.stages:
        kinds["refined"] = [name for name in targets if name in model.refiner.names]
    for given in retrieval.names:
        rows_K = retrieval.has(given)
        if not len(rows_K):
            continue
        print(f"samples given {given}", file=sys.stderr, flush=True)
        z = model.sample_latents(num_samples, given={given: rows.x[given][rows_K]}, seed=seed)
        for kind, names in kinds.items():
            x = model.decode(z, refine=kind == "refined", seed=seed)
            for target in (name for name in names if name != given):
                retrieval.add(given, target, kind, x[target].unflatten(0, (-1, num_samples)), rows_K)
    x = model.decode(latents_of(model.autoencoder, rows, model.device).mean_ND, refine=False)
    for target in targets:
        everything = torch.arange(len(rows))
        retrieval.add("all", target, "reconstruction", x[target][:, None], everything)
        changed = perturbed(rows.x[target], mix_seed(seed, 7))
        retrieval.add("itself", target, "perturbed", changed[:, None], everything)
        retrieval.add("itself", target, "true", rows.x[target][:, None], everything)


def share(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--samples", type=int, default=1, help="samples of each row")
    parser.add_argument("--rows", type=int, help="largest number of rows, evenly spread over the split")
    parser.add_argument("--judge-steps", type=int, default=400, help="training steps of each judge")
    parser.add_argument("--judges", nargs="+", default=["instance", "class"], choices=["instance", "class"])
    parser.add_argument("--modes", action="store_true", help="leave out refined samples")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.run)
    if args.modes:
        model.stages.discard("refiner")
    stand_in = args.run if model.synthetic else None
    urls = {split: split_urls(model.spec.data, split, stand_in) for split in ("train", args.split)}
    if not urls[args.split]:
        parser.error(f"the spec of {args.run} names no {args.split} shards; choose another --split")
    train, rows = (load_rows(found, model.modalities) for found in urls.values())
    if args.rows and args.rows < len(rows):
        rows = rows.take(torch.linspace(0, len(rows) - 1, args.rows).round().long())
    pictures = [name for name, x in rows.x.items() if x.dtype == torch.uint8 and x.dim() == 4]
    if not pictures:
        parser.error(f"expected a modality of pictures, got {', '.join(rows.x)}")
    judges: dict[str, dict[str, InstanceJudge | Judge]] = {"instance": {}, "class": {}}
    attributes = find_attributes(train)
    for name in pictures:
        print(f"judges of {name}", file=sys.stderr, flush=True)
        having = train.having([name])
        if "instance" in args.judges:
            judges["instance"][name] = train_instance_judge(having.x[name], args.judge_steps, args.seed)
        if (
            "class" in args.judges
            and max((len(known_values(having, attribute)) for attribute in attributes), default=0) > 1
        ):
            judges["class"][name] = train_judge(
                model.modalities[name], name, train, attributes, steps=args.judge_steps, seed=args.seed
            )
    retrieval = Retrieval(rows, judges, row_groups(rows.keys, model.spec.evaluate.group), train)
    measure(model, retrieval, args.samples, args.seed)
    print(f"{args.run}, {args.split} split, {len(rows)} rows, {args.samples} samples a row, {args.judge_steps} steps")
    print(f"{describe_machine()}\n")
    print("| judge | given | of | pictures | right | times chance | among the nearest 5 | by chance | distance |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in retrieval.lines:
        by_chance = 1 / line.num_pictures
        print(
            f"| {line.judge} | {line.given} | {line.target} | {line.kind} | {share(line.right)} "
            f"| {line.right.value / by_chance:.1f} | {share(line.near)} "
            f"| {by_chance:.4f}, {min(1.0, NEAR * by_chance):.4f} | {line.distance:.3f} |"
        )
    summary = retrieval.summary()
    print("\nright, over all pairs:")
    for name, figure in summary.items():
        print(f"  {name:32} {share(figure)}")
    distances = retrieval.distances()
    print("\ndistance, mean over all pairs:")
    for name, value in distances.items():
        print(f"  {name:32} {value:.3f}")
    if args.json:
        lines = [attrs.asdict(line) for line in retrieval.lines]
        figures = {name: attrs.asdict(figure) for name, figure in summary.items()}
        args.json.write_text(json.dumps({"lines": lines, "summary": figures, "distances": distances}, indent=1))


if __name__ == "__main__":
    main()
