"""`shala export`: write a run's model as programs that need torch or ONNX Runtime alone."""

from contextlib import closing
from pathlib import Path

from shala_framework.cli.commands import FILE, flag, option, run_argument, set_option, verb
from shala_framework.cli.evaluate import with_overrides
from shala_framework.cli.output import remark, say
from shala_framework.support.errors import DataError

TABLES = ("generate",)  # of a run's spec, which --set may change


@verb(
    "  shala export runs/mine --out exported\n"
    "  shala export runs/mine --out exported --onnx --set generate.guidance_scale=1.5\n"
)
@run_argument(on_hub=True)
@option("--out", type=FILE, required=True, metavar="DIR", help="New or empty folder for the programs.")
@flag("--onnx", "Write ONNX programs too, where the conversion works.")
@option("--batch-size", type=int, metavar="N", help="Make programs for N rows. [default: any number of rows]")
@set_option("Override a key of [generate], such as the guidance and the number of steps.", TABLES)
def export(run: Path | str, out: Path, onnx: bool, batch_size: int | None, overrides: tuple[str, ...]) -> None:
    """Write encoders, fusion, denoiser and decoders as programs of torch.export, each checked against the model."""
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.report.samples import SYNTHETIC
    from shala_framework.run.exporting import MANIFEST, MOST_ROWS, check_onnx, export_model
    from shala_framework.run.loading import load

    if batch_size is not None and not 1 <= batch_size <= MOST_ROWS:
        raise DataError(f"expected --batch-size of 1 to {MOST_ROWS}, got {batch_size}")
    if onnx:
        check_onnx()
    model = load(run)
    model.spec = with_overrides(model.spec, overrides, TABLES)
    with closing(make_reporter()) as reporter:
        manifest = export_model(model, out, onnx=onnx, batch_size=batch_size, reporter=reporter)
    num_onnx = sum("onnx" in program for program in manifest["programs"].values())
    also = f" and {num_onnx} ONNX programs" if onnx else ""
    say(f"wrote {len(manifest['programs'])} programs{also} to {out}; {MANIFEST} says how to call them")
    if "prior" not in model.stages:
        remark("stage 2 is not trained, so there is no program to sample latents with")
    if model.refined_names:
        remark(f"stage 3 is not exported: {', '.join(model.refined_names)} are decoded without refinement")
    if model.synthetic:
        remark(f"{SYNTHETIC}: this model was trained on a synthetic stand-in")
