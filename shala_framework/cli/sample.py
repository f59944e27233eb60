"""`shala sample`: samples of a trained run, jointly or from given files."""

import argparse
from contextlib import closing
from pathlib import Path

import attrs
import torch

from shala_framework.cli.progress import make_reporter
from shala_framework.data.rows import Rows
from shala_framework.errors import DataError
from shala_framework.model import ShaLa, load
from shala_framework.report.samples import SYNTHETIC, SampleWriter


def sample(arguments: argparse.Namespace) -> int:
    """Generate and write."""
    if arguments.num < 1:
        raise DataError(f"expected --num of at least 1, got {arguments.num}")
    if arguments.steps is not None and arguments.steps < 2:
        raise DataError(f"expected --steps of at least 2, got {arguments.steps}")
    model = load(arguments.run)
    settings = model.spec.generate
    if arguments.guidance is not None:
        settings = attrs.evolve(settings, guidance_scale=arguments.guidance)
    if arguments.autoguidance is not None:
        settings = attrs.evolve(settings, autoguidance_scale=arguments.autoguidance)
    if arguments.steps is not None:
        settings = attrs.evolve(settings, num_steps=arguments.steps)
    model.spec = attrs.evolve(model.spec, generate=settings)
    with closing(make_reporter()) as reporter:
        writer = SampleWriter(model=model, folder=arguments.out, on_file=reporter.advance)
        reporter.begin("samples", arguments.num, "sample")
        if arguments.given:
            rows = _given_rows(model, arguments.given)
            names = [name for name, there in zip(model.names, rows.presence[0].tolist(), strict=True) if there]
            writer.cross_modal(rows, names, num_samples=arguments.num, seed=arguments.seed, truth=False)
        else:
            writer.joint(arguments.num, seed=arguments.seed)
        reporter.finish()
        if model.synthetic:
            reporter.warn(f"{SYNTHETIC}: this model was trained on a synthetic stand-in")
    print(f"wrote {arguments.num} samples to {arguments.out}")
    return 0


def _given_rows(model: ShaLa, given: list[str]) -> Rows:
    """One row that holds the given files."""
    x, stems = {}, []
    for item in given:
        name, equals, file = item.partition("=")
        if not equals or name not in model.modalities:
            raise DataError(f"expected --given MODALITY=FILE with one of {list(model.names)}, got {item!r}")
        if name in x:
            raise DataError(f"expected one file for {name!r}, got two")
        path, modality = Path(file), model.modalities[name]
        field = next((f for f in modality.fields if path.name.lower().endswith("." + f)), None)
        if field is None:
            raise DataError(f"--given {item}: expected a file ending in one of {list(modality.fields)}")
        try:
            value = modality.read({field: path.read_bytes()})
        except OSError as error:
            raise DataError(f"--given {item}: cannot be read: {error.strerror}") from error
        except DataError as error:
            raise DataError(f"--given {item}: {error}") from error
        if value is None:
            raise DataError(f"--given {item}: the file holds no {name}")
        x[name] = value[None]
        stems.append(path.name.partition(".")[0])
    if len(x) == len(model.modalities):
        raise DataError("every modality is given; leave out those that are to be generated")
    return Rows(
        x={n: x.get(n, torch.zeros((1, *m.shape), dtype=m.dtype)) for n, m in model.modalities.items()},
        presence=torch.tensor([[n in x for n in model.names]]),
        keys=("_".join(stems),),
        labels=(None,),
    )
