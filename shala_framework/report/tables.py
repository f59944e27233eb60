"""Format an evaluation as text tables, for a terminal and for the report."""

from collections.abc import Iterable, Sequence

import attrs

from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.joint import JointFigures
from shala_framework.evaluation.measurements import REAL_ROWS, over_modalities, real_distances
from shala_framework.evaluation.suite import AttributeFigures, Evaluation

_DIVERSITY = ("precision", "recall", "spread", "classes", "classes_noise")


@attrs.frozen
class TextTable:
    """A table of an evaluation.

    Attributes:
        title: Title of the table.
        head: Titles of the columns.
        lines: Lines of cells. If the first column has no title, its cells are the names of the lines.
    """

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


def evaluation_tables(evaluation: Evaluation) -> list[TextTable]:
    """Return every table of an evaluation."""
    return [TextTable(*table) for table in _tables(evaluation)]


def _tables(evaluation: Evaluation) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    """Yield title, head and lines of each table."""
    names = list(evaluation.reconstruction)
    if evaluation.judges:
        yield (
            f"judges: accuracy on up to {max(j.real.count for j in evaluation.judges.values())} held-out rows of known "
            "class [95 % interval]; second judges have other networks",
            ["", "real rows", "reconstructions", "second, real", "second, reconstr."],
            [
                [name, show(j.real), show(j.reconstructed), show(j.second_real), show(j.second_reconstructed)]
                for name, j in evaluation.judges.items()
            ],
        )
    yield from _attribute_tables(evaluation)
    yield from _joint_tables(evaluation.joint)
    yield from _conditional_tables(evaluation)
    yield from _one_to_many_tables(evaluation)
    if evaluation.calibration:
        shares = list(evaluation.calibration[0].intervals)
        yield (
            "calibration: is the latent of a held-out row as uncertain as samples of it say? n up to "
            f"{max(f.ratio.count for f in evaluation.calibration)}; spread over error is 1, and a share covers itself",
            [
                "",
                "given",
                "spread / error",
                *(f"{share} %" for share in shares),
                *(f"{share} %, ball" for share in shares),
            ],
            [
                [
                    f.method,
                    str(f.num_given),
                    show(f.ratio),
                    *(show(f.intervals[share], bounds=False) for share in shares),
                    *(show(f.regions[share], bounds=False) for share in shares),
                ]
                for f in evaluation.calibration
            ],
        )
        uneven = [(f, *f.extremes()) for f in evaluation.calibration if f.by_subset]
        if uneven:
            yield (
                "calibration by what is given: spread over error of the subsets where it is lowest and highest",
                ["", "given", "lowest", "highest"],
                [[f.method, str(f.num_given), lowest, highest] for f, lowest, highest in uneven],
            )
    if evaluation.log_likelihood:
        method = {
            "elbo": "the ELBO",
            "importance": "the ELBO and an importance-weighted bound",
            "annealed": "the ELBO and annealed importance sampling",
        }[evaluation.likelihood]
        yield (
            f"log-likelihood, nats a row: {method}",
            ["", "ELBO", "estimate", "gap", "effective samples"],
            [
                [
                    title,
                    show(f.elbo, digits=1),
                    show(f.estimate, digits=1),
                    show(f.gap, digits=1),
                    f"{f.effective_samples:.1f}" if f.effective_samples is not None else "",
                ]
                for title, f in evaluation.log_likelihood.items()
            ],
        )
    yield (
        "reconstruction, nats per value",
        names,
        [[show(evaluation.reconstruction[name]) for name in names]],
    )
    if evaluation.refinement:
        yield (
            "refined modalities, nats a value: log p(x | z) of the decoder, the refiner's lower bound of it, and the "
            "difference of that bound to another row's latent",
            ["", "decoder", "refined", "own less another latent"],
            [[name, show(f.decoder), show(f.refined), show(f.gain)] for name, f in evaluation.refinement.items()],
        )
    latent = evaluation.latent
    if latent.clusters:
        yield (
            "clusters of the shared latent by k-means, compared with classes: accuracy of the best assignment, "
            "normalised mutual information, adjusted Rand index",
            ["", "accuracy", "mutual information", "Rand"],
            [
                [name or "class", show(f.accuracy), show(f.mutual_information), show(f.rand)]
                for name, f in latent.clusters.items()
            ],
        )
    yield (
        "shared latent",
        [
            "dimensions",
            "active",
            "effective",
            "KL, nats",
            "linear probe",
            *(f"of {name}" for name in latent.attributes),
        ],
        [
            [
                str(latent.dimensions),
                str(latent.active),
                f"{latent.effective:.1f}",
                show(latent.kl, digits=1),
                show(latent.probe),
                *(show(figure) for figure in latent.attributes.values()),
            ]
        ],
    )


def _attribute_tables(evaluation: Evaluation) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    """Yield the figures of each attribute, if labels name several."""
    names = list(dict.fromkeys(name for judge in evaluation.judges.values() for name in judge.attributes))
    if not names:
        return

    def accuracy(figures: AttributeFigures | None) -> str:
        if figures is None:
            return ""
        return show(figures.real) if figures.counts else f"({show(figures.real, bounds=False)})"

    yield (
        "judges by attribute: accuracy on real rows; verdicts of those in parentheses do not count: they cannot tell "
        "the attribute",
        ["", *names],
        [[name, *(accuracy(j.attributes.get(a)) for a in names)] for name, j in evaluation.judges.items()],
    )
    of_joint = [f for f in evaluation.joint if f.attributes]
    if of_joint:
        yield (
            "coherence of joint samples by attribute, among the judges that can tell it",
            ["", *names],
            [[f.method, *(show(f.attributes.get(a)) for a in names)] for f in of_joint],
        )
    of_given = [f for f in evaluation.conditional if f.attributes]
    if of_given:
        yield (
            "coherence of samples from given modalities by attribute, where both sides can tell it",
            ["", "given", *names],
            [[f.method, str(f.num_given), *(show(f.attributes.get(a)) for a in names)] for f in of_given],
        )


def _joint_tables(joint: Sequence[JointFigures]) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    if not joint:
        return
    distances = joint[1].frechet
    count = min((figure.count for figure in distances.values()), default=0)
    means = {
        what: [show(found) for found in over_modalities(joint, what, factor=1e3 if what.endswith("kernel") else 1)]
        for what in ("frechet", "kernel", "second_frechet", "second_kernel", *_DIVERSITY)
    }
    yield (
        "joint samples; distances are means over modalities and seeds, Frechet's of sets of "
        f"{count}, kernel distance x 1,000",
        ["", "coherence", "Frechet", "kernel", "2nd coherence", "2nd Frechet", "2nd kernel", "evaluations", "ms"],
        [
            [
                f.method,
                show(f.coherence),
                means["frechet"][number],
                means["kernel"][number],
                show(f.second_coherence, bounds=False),
                means["second_frechet"][number],
                means["second_kernel"][number],
                str(f.evaluations) if f.milliseconds is not None else "",
                f"{f.milliseconds:.2f}" if f.milliseconds is not None else "",
            ]
            for number, f in enumerate(joint)
        ],
    )
    yield (
        "diversity of joint samples: spread within a class is relative to real rows; classes is total variation",
        ["", "precision", "recall", "spread", "classes", "by chance"],
        [[f.method, *(means[what][number] for what in _DIVERSITY)] for number, f in enumerate(joint)],
    )


def _conditional_tables(evaluation: Evaluation) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    if not evaluation.conditional:
        return
    title = "samples from given modalities"
    if sizes := [f.frechet.count for f in evaluation.conditional if f.frechet is not None]:
        title += f"; distances to rows of others, of sets of {max(sizes)}"
    real = [
        [REAL_ROWS, str(size), "", "", "", show(found["frechet"]), _scaled(found["kernel"])]
        for size, found in real_distances(evaluation).items()
    ]
    yield (
        title,
        ["", "given", "coherence", "of the vote", "2nd coherence", "Frechet", "kernel"],
        real
        + [
            [
                f.method,
                str(f.num_given),
                show(f.coherence),
                show(f.vote_coherence, bounds=False),
                show(f.second_coherence, bounds=False),
                show(f.frechet),
                _scaled(f.kernel),
            ]
            for f in evaluation.conditional
        ],
    )
    if any(f.changes is not None for f in evaluation.conditional):
        yield (
            "diversity of samples from given modalities: agreement is between generated modalities, spread is relative "
            "to real rows of a class",
            ["", "given", "agreement", "spread", "two differ in class", "one from truth", "spread / error"],
            [
                [
                    f.method,
                    str(f.num_given),
                    show(f.agreement, bounds=False),
                    show(f.diversity),
                    show(f.changes, bounds=False),
                    show(f.misses, bounds=False),
                    show(f.calibration),
                ]
                for f in evaluation.conditional
            ],
        )
    generated = list(evaluation.judges)
    for f in evaluation.conditional:
        if f.num_given == 1 and f.pairs and len(generated) > 2:
            yield (
                f"coherence from one given modality (row) to another (column), {f.method}",
                ["", *generated],
                [
                    [given, *(show(found.get(name), bounds=False) for name in generated)]
                    for given, found in f.pairs.items()
                ],
            )


def _one_to_many_tables(evaluation: Evaluation) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    if evaluation.one_to_many:
        named = any(f.attribute for f in evaluation.one_to_many)
        which = ["given", "attribute"] if named else ["given"]
        yield (
            "all others from one modality: agreement of those whose judges can tell the classes, beside that with a "
            "latent for each and of real rows; total variation of their classes from those of training rows of the "
            "same given value",
            [
                "",
                *which,
                "coherence",
                "a latent for each",
                "real rows",
                "open values",
                "variation",
                "by chance",
            ],
            [
                [
                    f.method,
                    f.given,
                    *([f.attribute] if named else []),
                    show(f.coherence),
                    show(f.independent, bounds=False),
                    show(f.real, bounds=False),
                    str(f.num_values),
                    show(f.variation),
                    show(f.variation_by_chance),
                ]
                for f in evaluation.one_to_many
            ],
        )
    if evaluation.cost is not None:
        counts, hours = evaluation.cost.parameters, evaluation.cost.hours
        yield (
            "cost: parameters of each stage, and hours of training",
            [*counts, "hours"],
            [[*(f"{count:,}" for count in counts.values()), "" if hours is None else f"{hours:.2f}"]],
        )


def show(figure: Figure | None, *, bounds: bool = True, digits: int = 3) -> str:
    """Format a figure such as "0.934 [0.921, 0.946]"; empty if it was not measured."""
    if figure is None:
        return ""
    text = f"{figure.value:.{digits}f}"
    if bounds and figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return text


def _scaled(kernel: Figure | None) -> str:
    """A kernel distance x 1,000; empty if it was not measured."""
    return "" if kernel is None else f"{1e3 * kernel.value:.2f}"
