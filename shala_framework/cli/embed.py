"""`shala embed`: write the shared latent of every row of a split to a file."""

from contextlib import closing
from pathlib import Path

import click

from shala_framework.cli.commands import FILE, allow_pipe_flag, device_option, option, run_argument, set_option, verb
from shala_framework.cli.evaluate import with_overrides
from shala_framework.cli.output import remark, say
from shala_framework.data.splits import SPLITS, Split

TABLES = ("data",)  # of a run's spec, which --set may change


@verb(
    "  shala embed runs/ntu_rgb_skeleton --out z.npz\n"
    "  shala embed runs/mine --split test --given photo --given caption --out z.parquet\n"
    "  shala embed runs/mine --split test --set 'data.test=shards/mine/test-*.tar' --out z.csv\n"
)
@run_argument(on_hub=True)
@option("--split", type=click.Choice(SPLITS), default="validation", help="Split to embed.")
@option("--out", type=FILE, required=True, metavar="FILE", help="File that ends in .parquet (pyarrow), .npz or .csv.")
@option(
    "--given",
    multiple=True,
    metavar="MODALITY",
    help="Look at this modality of each row. Repeatable. [default: all that a row has]",
)
@set_option("Override a key of [data].", TABLES)
@device_option
@allow_pipe_flag
def embed(
    run: Path | str, split: Split, out: Path, given: tuple[str, ...], overrides: tuple[str, ...], device: str
) -> None:
    """Write posterior means and deviations of z for every row of a split, with keys and labels."""
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.report.samples import SYNTHETIC
    from shala_framework.run.embedding import check_kind, embed_split, embeddings_file
    from shala_framework.run.hub import local_folder
    from shala_framework.run.loading import load
    from shala_framework.support.checkpoint import write_file
    from shala_framework.support.machine import resolve_device

    check_kind(out)
    folder = local_folder(run)
    model = load(folder, device=resolve_device(device))
    model.spec = with_overrides(model.spec, overrides, TABLES, stand_in=model.synthetic)
    with closing(make_reporter()) as reporter:
        embeddings = embed_split(model, folder, split, reporter, given or None)
    write_file(out, embeddings_file(embeddings, out.suffix.lower()))
    num_rows, size = embeddings.mean_ND.shape
    say(f"wrote {num_rows} rows of {size} dimensions to {out}")
    if model.synthetic:
        remark(f"{SYNTHETIC}: these rows are not recorded data")
