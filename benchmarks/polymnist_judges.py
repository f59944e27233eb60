"""Judges of PolyMNIST: a small classifier of each modality, which scores the samples of any system.

    python benchmarks/polymnist_judges.py train JUDGE_DATA.npz JUDGES.pt [--device cpu]
    python benchmarks/polymnist_judges.py score POLYMNIST.npz JUDGES.pt SAMPLES.npz

polymnist_arrays.py builds the sets; the judges see more rows than the systems that they judge. `train` prints each
judge's accuracy on the test rows of JUDGE_DATA.npz. SAMPLES.npz has uint8 arrays [N, 28, 28, 3] (`write_samples` in
pictures.py):

    joint/I      joint samples of modality I: row n of each modality is of one latent
    given/A,B/I  modality I of every test row, in order, given modalities A and B of that row

`score` prints a line of JSON:

    joint_coherence       share of joint samples of which all judges name one class
    coherence_given_K     share of samples given K modalities whose class is the row's, over all targets
    joint_frechet         Frechet distance to the test rows in the judges' 128 features, a mean over modalities
    frechet_given_K       the same of samples given K modalities
    real_joint_coherence  the first of the test rows themselves, and real_accuracy the second
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shala_framework.evaluation.frechet import frechet_distance

SEED, NUM_EPOCHS, BATCH_SIZE, PEAK_LEARNING_RATE, WEIGHT_DECAY = 0, 5, 128, 4e-3, 1e-2


def judge_network() -> nn.Sequential:
    """Return a classifier of pictures in [0, 1], [B, 3, 28, 28]: its first part has 128 features, its second logits."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 4 * 4, 128), nn.ReLU()),
    )
    return nn.Sequential(features, nn.Linear(128, 10))


def unit_pictures(array: NDArray[np.uint8]) -> Tensor:
    """Return uint8 [N, 28, 28, 3] as float32 [N, 3, 28, 28] in [0, 1]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def train_judge(x_BCHW: Tensor, labels_B: Tensor, num_epochs: int = NUM_EPOCHS) -> nn.Sequential:
    """Train a judge by cross-entropy on pictures in [0, 1], on their device."""
    net = judge_network().to(x_BCHW.device)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    steps = num_epochs * -(-len(labels_B) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, steps)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(labels_B)).to(labels_B.device).split(BATCH_SIZE):
            loss = nn.functional.cross_entropy(net(x_BCHW[rows]), labels_B[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def save_judges(judges: Sequence[nn.Sequential], path: Path) -> None:
    """Write the weights of the judges of all modalities."""
    torch.save([{name: value.cpu() for name, value in judge.state_dict().items()} for judge in judges], path)


def load_judges(path: Path) -> list[nn.Sequential]:
    """Read the judges of all modalities."""
    judges = []
    for state in torch.load(path, weights_only=True):
        judge = judge_network().eval()
        judge.load_state_dict(state)
        judges.append(judge)
    return judges


def train_judges(data: Path, out: Path, device: str = "cpu") -> list[float]:
    """Train and write the judges of a set's modalities, and return their accuracies on its test rows."""
    torch.manual_seed(SEED)
    judges, accuracies = [], []
    with np.load(data) as arrays:
        labels, test_labels = (torch.from_numpy(arrays[f"{split}_y"]).to(device) for split in ("train", "test"))
        for train_x, test_x in zip(arrays["train_x"], arrays["test_x"], strict=True):
            judge = train_judge(unit_pictures(train_x).to(device), labels)
            with torch.no_grad():
                classes = judge(unit_pictures(test_x).to(device)).argmax(1)
            judges.append(judge)
            accuracies.append(float((classes == test_labels).float().mean()))
    save_judges(judges, out)
    return accuracies


@torch.no_grad()
def score(data: Path, judges: Path, samples: Path) -> dict[str, float]:
    """Return the figures of some samples."""
    nets = load_judges(judges)

    def judged(i: int, pictures: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        features_NF = nets[i][0](unit_pictures(pictures))
        return features_NF, nets[i][1](features_NF).argmax(1)

    with np.load(data) as arrays:
        labels = torch.from_numpy(arrays["test_y"])
        real = [judged(i, pictures) for i, pictures in enumerate(arrays["test_x"])]
    joint_classes: list[Tensor] = []
    distances, hits = defaultdict(list), defaultdict(list)
    with np.load(samples) as generated:
        for key in generated.files:
            kind, *given, target = key.split("/")
            features_NF, classes_N = judged(int(target), generated[key])
            title = f"given_{len(given[0].split(','))}" if given else kind
            distances[title].append(frechet_distance(features_NF, real[int(target)][0]))
            if given:
                hits[title].append(float((classes_N == labels).float().mean()))
            else:
                joint_classes.append(classes_N)
    figures = {
        "real_joint_coherence": agreement([classes_N for _, classes_N in real]),
        "real_accuracy": mean(float((classes_N == labels).float().mean()) for _, classes_N in real),
        "joint_coherence": agreement(joint_classes),
        "joint_frechet": mean(distances.pop("joint")),
        **{f"coherence_{title}": mean(values) for title, values in sorted(hits.items())},
        **{f"frechet_{title}": mean(values) for title, values in sorted(distances.items())},
    }
    return {name: round(value, 4) for name, value in figures.items()}


class Scorer:
    """Judges pictures of each modality, uint8 [N, 3, 28, 28], of samples and held-out rows.

    Attributes:
        labels: Class of each row.
        real: Features [N, 128] of each modality of the rows.
    """

    def __init__(self, judges: Path, x: Mapping[str, Tensor], labels: NDArray[np.int64]) -> None:
        self.labels, self._judges = torch.from_numpy(labels), load_judges(judges)
        self.real = [self.features(i, of_modality) for i, of_modality in enumerate(x.values())]

    @torch.no_grad()
    def features(self, i: int, x: Tensor) -> Tensor:
        """Return the features [N, 128] of pictures of modality i."""
        found: Tensor = self._judges[i][0](x.float() / 255)
        return found

    @torch.no_grad()
    def classes(self, i: int, features_NF: Tensor) -> Tensor:
        """Return the class that the judge of modality i names for each row of features."""
        found: Tensor = self._judges[i][1](features_NF).argmax(1)
        return found

    def joint(self, samples: Mapping[str, Tensor]) -> tuple[float, float]:
        """Return coherence and mean Frechet distance of joint samples."""
        features = [self.features(i, x) for i, x in enumerate(samples.values())]
        distances = map(frechet_distance, features, self.real)
        return agreement([self.classes(i, f) for i, f in enumerate(features)]), mean(distances)


def agreement(classes_MN: Sequence[Tensor]) -> float:
    """Return the share of rows for which all modalities have one class."""
    stacked_MN = torch.stack(list(classes_MN))
    return float((stacked_MN == stacked_MN[0]).all(0).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train")
    for name in ("data", "out"):
        train.add_argument(name, type=Path)
    train.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    scoring = verbs.add_parser("score")
    for name in ("data", "judges", "samples"):
        scoring.add_argument(name, type=Path)
    args = parser.parse_args()
    if args.verb == "train":
        accuracies = train_judges(args.data, args.out, args.device)
        print("test accuracies: " + ", ".join(f"{accuracy:.4f}" for accuracy in accuracies))
    else:
        print(json.dumps(score(args.data, args.judges, args.samples)))


if __name__ == "__main__":
    main()
