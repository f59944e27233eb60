"""The training of judges: how long, on which rows, and what is said where a modality can have none.

Shapes: N rows, A attributes, C classes.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor, nn

from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.evaluation.attributes import Attribute, known_values
from shala_framework.evaluation.judges import Architecture, Judge
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.model import ShaLa
from shala_framework.plugin.modality import Modality
from shala_framework.spec.schema import Stage
from shala_framework.support.cores import look_at_load
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError
from shala_framework.support.machine import to_device
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import forked_rng, mix_seed
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.schedules import learning_rate_factor

CPU = torch.device("cpu")
BATCH_SIZE = 64
EPOCHS, LEAST_WORTH_STEPS, MOST_STEPS = 25, 100, 400  # what the training rows are worth, without a limit of time
LEAST_STEPS, TRIAL_STEPS = 30, 4


@attrs.frozen
class JudgeTraining:
    """What the judges of a model's modalities are trained on.

    Attributes:
        model: Whose modalities they look at.
        train: Training rows that they learn from.
        held_out: Rows that they will look at.
        attributes: Attributes of the training rows, with their classes in the order of the judges' outputs.
        steps: Training steps of each judge; None fits them to the rows and to the time.
        seed: Seed of initialisation and order.
        precision: In which they are trained.
    """

    model: ShaLa
    train: Rows
    held_out: Rows
    attributes: Sequence[Attribute]
    steps: int | None
    seed: int
    precision: Precision

    def judges(
        self, pace: Pace, parts: Parts, reporter: Reporter, notes: list[str]
    ) -> tuple[dict[str, Judge], dict[str, Judge]]:
        """Train first and second judges of every modality that can have them, for as many steps as time allows.

        First judges come first, as every figure needs them. Modalities that can have none are noted.
        """
        first = self._trained_judges("plugin", self._possible(notes), pace, parts, reporter, notes)
        second = self._trained_judges("plain", list(first), pace, parts, reporter, notes)
        if self.steps == 0:
            notes.append("no judges, and nothing that needs classes: evaluate.judge_steps is 0")
        if len(first) == 1:
            notes.append("no joint coherence: there is one judge, with which no other could agree")
        return first, second

    def _trained_judges(
        self,
        architecture: Architecture,
        names: Sequence[str],
        pace: Pace,
        parts: Parts,
        reporter: Reporter,
        notes: list[str],
    ) -> dict[str, Judge]:
        """Train judges of one architecture. What one leaves of its time goes to the next ones.

        Processes train judges in turn and pass them to the others.
        """
        part, prefix = ("judges", "") if architecture == "plugin" else ("second judges", "second ")
        size, titles = processes.world_size(), {name: f"{prefix}judge of {name}" for name in names}
        steps_of: dict[str, int] = {}
        own: dict[str, Judge] = {}
        # The same training set leaves other rows to the judges if other groups of rows stay together.
        rows = hashlib.sha256(json.dumps(self.train.keys).encode()).hexdigest()
        mine = names[processes.rank() :: size]
        for number, name in enumerate(mine):
            steps, title = self.steps, titles[name]
            if steps is None:
                seconds = pace.seconds(part)
                share = None if seconds is None else seconds / (len(mine) - number)
                fitting = partial(self._fitting, name, architecture, share)
                steps = parts.own_value(Part(f"steps of the {title}", [len(self.train), pace.limit], int, fitting))
            steps_of[name] = steps
            if not steps:
                continue
            reporter.begin(title, steps, "step")
            own[name] = parts.own_module(
                title,
                [steps, rows],
                partial(self._untrained, name, architecture),
                partial(self._trained, name, architecture, steps, reporter.advance),
            )
            reporter.finish()
        found: dict[str, Judge] = {}
        for number, name in enumerate(names):
            steps = int(processes.bytes_from(b"%d" % steps_of.get(name, 0), number % size))
            if steps:
                build = partial(self._untrained, name, architecture)
                found[name] = parts.passed(own.get(name), number % size, build)
                found[name].steps = steps
            elif self.steps is None:
                notes.append(
                    f"no {titles[name]}: {LEAST_STEPS} training steps take longer than its share of the time; "
                    "raise evaluate.minutes, or set evaluate.judge_steps"
                )
        pace.finish(part)
        return found

    def _possible(self, notes: list[str]) -> list[str]:
        usable = [a for a in self.attributes if len(a.classes) > 1 and (a.indices(self.held_out.labels) >= 0).any()]
        notes += [
            f"no judges of the attribute {attribute.name!r}: that takes two values in the training rows and a held-out "
            f"row with one of them, got {len(attribute.classes)} values"
            for attribute in self.attributes
            if usable and attribute not in usable
        ]
        if not usable:
            count = max((len(attribute.classes) for attribute in self.attributes), default=0)
            notes.append(
                f"no judges, and so no coherence, distances, precision, recall, diversity or probe: the field cls "
                f"names {count} classes in the training rows, and held-out rows "
                f"{'have labels' if any(self.held_out.labels) else 'have no label'}"
            )
            return []
        names = []
        for name in self.model.names:
            train, labels = self.train.having([name]), self.held_out.having([name]).labels
            known = {attribute: known_values(train, attribute) for attribute in usable}
            if any(len(values) > 1 and int((a.indices(labels, values) >= 0).sum()) > 1 for a, values in known.items()):
                names.append(name)
            else:
                notes.append(
                    f"no judge of {name}: that takes training rows with it of two classes, and two held-out rows of "
                    "those"
                )
        return names

    def _fitting(self, name: str, architecture: Architecture, seconds: float | None) -> int:
        """Steps that the rows are worth and the seconds allow."""
        most = min(MOST_STEPS, max(LEAST_WORTH_STEPS, EPOCHS * len(self.train) // BATCH_SIZE))
        if seconds is None:
            return most
        times: list[float] = []
        start = time.perf_counter()
        self._trained(name, architecture, TRIAL_STEPS, lambda _: times.append(time.perf_counter()))
        left = seconds - (times[-1] - start)
        fitting = int(left * (len(times) - 1) / max(times[-1] - times[0], 1e-9))
        return 0 if fitting < LEAST_STEPS else min(most, fitting)

    def _untrained(self, name: str, architecture: Architecture) -> Judge:
        modality = self.model.modalities[name]
        train = self.train.having([name])
        known = [known_values(train, attribute) for attribute in self.attributes]
        return Judge(modality, self.attributes, known, architecture=architecture).to(self.model.device)

    def _trained(self, name: str, architecture: Architecture, steps: int, on_step: Callable[[int], None]) -> Judge:
        return train_judge(
            self.model.modalities[name],
            name,
            self.train,
            self.attributes,
            architecture=architecture,
            steps=steps,
            seed=self.seed,
            precision=self.precision,
            device=self.model.device,
            on_step=on_step,
        )


def train_judge(
    modality: Modality,
    name: str,
    rows: Rows,
    attributes: Sequence[Attribute],
    *,
    architecture: Architecture = "plugin",
    steps: int = 200,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = 1e-2,
    seed: int = 0,
    precision: Precision = FLOAT32,
    device: torch.device = CPU,
    on_step: Callable[[int], None] = lambda _: None,
) -> Judge:
    """Train a judge by cross-entropy, with Muon.

    Args:
        modality: Whose x it looks at.
        name: Name of the modality in rows.
        rows: Training rows; those without the modality or a label are passed over.
        attributes: Attributes of the whole training set, with their classes in the order of the outputs.
        architecture: Architecture of its encoder: the plugin's own, or the plain one of second judges.
        steps: Optimiser steps.
        batch_size: Rows a step.
        learning_rate: Peak of the schedule: a warm-up over a tenth of the steps, then a cosine to zero.
        seed: Seed of initialisation and order.
        precision: In which it is trained.
        device: Device on which it is trained, and stays.
        on_step: Called with the number of steps done.

    Raises:
        DataError: Fewer than two classes have a row with the modality.
    """
    having = rows.having([name])
    known = [known_values(having, attribute) for attribute in attributes]
    if max(map(len, known), default=0) < 2:
        raise DataError(
            f"expected rows of at least two classes to train a judge of {name}, got those of "
            f"{sorted(set().union(*known))}; labels are the field cls"
        )
    with forked_rng():
        torch.manual_seed(mix_seed(seed, 3))
        judge = Judge(modality, attributes, known, architecture=architecture).to(device)
        targets_NA = judge.targets(rows.labels)
        usable = torch.nonzero(rows.presence[:, list(rows.x).index(name)] & (targets_NA >= 0).any(1))[:, 0]
        settings = Stage(steps=steps, learning_rate=learning_rate, weight_decay=1e-2, warmup_steps=steps // 10)
        optimizers = make_optimizers(judge, settings, matrix_dtype=precision.dtype)
        judge.train()
        batches = shuffled_batches(len(usable), batch_size, seed)
        for step in range(steps):
            look_at_load()
            chosen = usable[next(batches)]
            rate = learning_rate * learning_rate_factor(settings, step)
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = rate
            with precision.autocast(device):
                logits = judge(to_device(rows.x[name][chosen], device))
            _loss(logits, to_device(targets_NA[chosen], device)).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            on_step(step + 1)
    return judge.eval()


def _loss(logits: Sequence[Tensor], targets_NA: Tensor) -> Tensor:
    """Return the cross-entropy, summed over attributes, each a mean over the rows whose value is known."""
    losses = [
        nn.functional.cross_entropy(
            logits_NC.float(), targets_N, label_smoothing=0.05, ignore_index=-1, reduction="sum"
        )
        / (targets_N >= 0).sum().clamp_min(1)
        for logits_NC, targets_N in zip(logits, targets_NA.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum()
