"""Whether more modalities hurt: PolyMNIST-like sets of 2, 5, 10 and 20 modalities at equal training samples.

    python benchmarks/many_modalities.py BENCH RAW --results RESULTS [--modalities 2 5 10 20] [--steps 2000]

RAW holds mnist/ and polymnist_backgrounds/. Modality k shows a digit by a hand of its own over crops of background k
% 5, whose colours are rotated and which is mirrored by k // 5, so that all 20 look different. Every training takes
the same number of steps of the same number of rows. The layers are those of compare.py. Judges have the architecture
of BENCH's judge.py and are trained here, on other crops and digits of the training split. Samples are compared by the
judges of five neighbouring modalities on a circle (of two, where there are two), over all such windows: the joint
coherence of any five. Coherence given one modality is that of the next one, over all.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import attrs
import numpy as np
import torch
from ablation import load_script
from numpy.typing import NDArray
from pictures import SIDE, as_rows
from polymnist import NUM_JOINT, Recipe, train
from shala_datasets.mnist import MNISTDigits, read_mnist
from shala_datasets.polymnist import read_background
from torch import Tensor, nn

from shala_framework.machine import describe_machine

INK = 127
TRAIN, HELD_OUT, JUDGE_ROWS, JUDGE_EPOCHS = 20_000, 1_000, 20_000, 4


def backgrounds(folder: Path, count: int) -> list[NDArray[np.uint8]]:
    """One for each modality."""
    originals = [read_background(folder / f"{number}.jpg") for number in range(1, 6)]
    made = []
    for k in range(count):
        turn = k // 5
        picture = np.roll(originals[k % 5], turn, axis=2)
        made.append(picture[:, ::-1] if turn % 2 else picture)
    return made


def compose(
    digits: MNISTDigits, labels: NDArray[np.int64], background: NDArray[np.uint8], rng: np.random.Generator
) -> Tensor:
    """uint8 [N, 3, 28, 28]: for each label a digit of its class, inverted over a crop."""
    rows = [digits.of_class(label) for label in range(10)]
    out = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    for i, label in enumerate(labels):
        top, left = rng.integers(background.shape[0] - SIDE + 1), rng.integers(background.shape[1] - SIDE + 1)
        crop = background[top : top + SIDE, left : left + SIDE].copy()
        ink = digits.images[rng.choice(rows[label])] > INK
        crop[ink] = 255 - crop[ink]
        out[i] = crop
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def train_judge(net: nn.Sequential, x: Tensor, labels: Tensor, batch_size: int = 128) -> nn.Sequential:
    """By cross-entropy, as the benchmark does."""
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = JUDGE_EPOCHS * -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(JUDGE_EPOCHS):
        for rows in torch.randperm(len(labels)).split(batch_size):
            loss = nn.functional.cross_entropy(net(x[rows].float() / 255), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def verdicts(judges: Sequence[nn.Sequential], x: Sequence[Tensor]) -> Tensor:
    """Classes [M, N]."""
    return torch.stack(
        [judge(of_modality.float() / 255).argmax(1) for judge, of_modality in zip(judges, x, strict=True)]
    )


def window_agreement(digits_MN: Tensor, size: int = 5) -> float:
    """Share of rows in which `size` neighbouring modalities agree, mean over all windows on the circle."""
    count = len(digits_MN)
    size = min(size, count)
    windows = [digits_MN[[(start + j) % count for j in range(size)]] for start in range(count)]
    return mean(float((w == w[0]).all(0).float().mean()) for w in windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--modalities", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--prior-steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.results.mkdir(parents=True, exist_ok=True)
    script = load_script(args.bench / "judge.py")
    digits = read_mnist(args.raw / "mnist", 0.1)
    most = max(args.modalities)
    rng = np.random.default_rng(0)
    made = backgrounds(args.raw / "polymnist_backgrounds", most)
    labels = rng.permutation(digits["train"].labels)[:TRAIN].astype(np.int64)
    held_out_labels = rng.permutation(digits["validation"].labels)[:HELD_OUT].astype(np.int64)
    train_x = [compose(digits["train"], labels, picture, rng) for picture in made]
    held_out_x = [compose(digits["validation"], held_out_labels, picture, rng) for picture in made]
    targets = torch.from_numpy(held_out_labels)
    path = args.results / f"judges-{most}.pt"
    if path.exists():
        judges = []
        for state in torch.load(path, weights_only=True):
            net = script.judge().eval()
            net.load_state_dict(state)
            judges.append(net)
    else:
        torch.manual_seed(0)
        judge_labels = rng.permutation(digits["train"].labels)[:JUDGE_ROWS].astype(np.int64)
        judges = [
            train_judge(
                script.judge(), compose(digits["train"], judge_labels, picture, rng), torch.from_numpy(judge_labels)
            )
            for picture in made
        ]
        torch.save([judge.state_dict() for judge in judges], path)
    real = verdicts(judges, held_out_x)
    print(f"judges on {HELD_OUT} held-out rows: {float((real == targets).float().mean()):.3f}", flush=True)
    for seed in range(args.seeds):
        for count in args.modalities:
            file = args.results / f"shala-{count}-{args.steps}-{args.prior_steps}-seed{seed}.json"
            if file.exists():
                continue
            recipe = Recipe(seed=seed, steps=args.steps, prior_steps=args.prior_steps)
            rows = as_rows({f"m{i}": x for i, x in enumerate(train_x[:count])})
            model, training = train(recipe, rows)
            samples = verdicts(judges[:count], list(model.joint(NUM_JOINT, seed).values()))
            plain = attrs.evolve(recipe, autoguidance=1.0)
            model.recipe = plain
            unguided = verdicts(judges[:count], list(model.joint(NUM_JOINT, seed).values()))
            mixture = verdicts(judges[:count], list(model.joint_by_mixture(NUM_JOINT, seed).values()))
            model.recipe = recipe
            known = {f"m{i}": x for i, x in enumerate(held_out_x[:count])}
            hits = []
            for i in range(count):
                target = (i + 1) % count
                x = model.conditional(known, (i,), seed + i)[f"m{target}"]
                hits.append(float((verdicts([judges[target]], [x])[0] == targets).float().mean()))
            figures = {
                "joint coherence of five": window_agreement(samples),
                "without autoguidance": window_agreement(unguided),
                "Gaussian mixture": window_agreement(mixture),
                "given 1": mean(hits),
                "real rows": window_agreement(real[:count]),
                "training": training,
            }
            file.write_text(json.dumps(figures) + "\n")
            print(seed, count, figures, flush=True)
    print(f"\n{args.steps} steps of 64 rows, {args.prior_steps} of 512; {describe_machine()}\n")
    names = ["joint coherence of five", "without autoguidance", "Gaussian mixture", "given 1", "real rows"]
    print("| modalities | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for count in args.modalities:
        found = [
            json.loads(f.read_text())
            for f in sorted(args.results.glob(f"shala-{count}-{args.steps}-{args.prior_steps}-seed*.json"))
        ]
        if found:
            print(f"| {count} | " + " | ".join(f"{mean(f[name] for f in found):.3f}" for name in names) + " |")


if __name__ == "__main__":
    main()
