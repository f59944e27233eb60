"""A local page on which a person gives a model some modalities and gets the others.

Gradio draws the page, and the report's elements show the results. Browsers let any open page send requests to local
addresses, and let a foreign host name point to one. `OwnPageOnly` refuses both.
"""

import html
import io
import ipaddress
import socket
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import attrs
import jinja2
import torch

from shala_framework.data.labels import label_title
from shala_framework.data.rows import Rows
from shala_framework.model import ShaLa
from shala_framework.model.given import MediaKind, media_kind
from shala_framework.plugin.modality import Modality
from shala_framework.plugin.options import at_least, between
from shala_framework.report.data_uris import media_of
from shala_framework.report.given import given_row
from shala_framework.report.samples import SYNTHETIC
from shala_framework.report.signal_groups import Cell, SignalGroup
from shala_framework.spec.limits import MOST_GUIDANCE
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import DataError, ShalaError
from shala_framework.support.escaping import printable

MOST_SAMPLES = 16
MOST_STEPS = 100
NOTHING = "none"
FILES = "samples.zip"


@attrs.frozen(kw_only=True)
class Request:
    """What a person requests on the page.

    Attributes:
        given: Files and typed texts that the person provides, by modality.
        row: Held-out row that gives the modalities of `from_row`, or None.
        from_row: Modalities to take from that row. What the person provides takes precedence.
        impute: Whether to generate the given modalities too.
        num_samples: Number of samples.
        guidance_scale: Guidance towards the given modalities.
        autoguidance_scale: Guidance away from the errors of the weaker denoiser.
        num_steps: Number of sampler steps.
        seed: Seed of the samples.
    """

    given: Mapping[str, Path | str] = attrs.field(factory=dict)
    row: int | None = None
    from_row: Sequence[str] = ()
    impute: bool = False
    num_samples: int = attrs.field(default=4, validator=between(1, MOST_SAMPLES))
    guidance_scale: float = attrs.field(default=1.0, validator=between(0, MOST_GUIDANCE))
    autoguidance_scale: float = attrs.field(default=1.0, validator=between(0, MOST_GUIDANCE))
    num_steps: int = attrs.field(default=18, validator=between(2, MOST_STEPS))
    seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1))


class OwnPageOnly:
    """ASGI middleware that refuses requests which the page itself did not send.

    A page of another site can make a browser send requests here; they have its Origin. It can also point its own host
    name to this machine, so that the browser takes both for one site; such requests have its name as Host.

    Args:
        app: Application that answers accepted requests.
        host: Address on which the page is served.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], host: str) -> None:
        self.app = app
        self.names = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower()}
        self.everywhere = host in ("0.0.0.0", "::", "")  # served to other machines, under any address
        if self.everywhere:
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or refuse it with status 403."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope.get("headers", ())]
        reason = self.refusal(headers) if scope["type"] in ("http", "websocket") else ""
        if not reason:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            text = f"refused: {reason}\n".encode()
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": text})

    def refusal(self, headers: Sequence[tuple[str, str]]) -> str:
        """Return the reason to refuse a request with these headers; empty if it is accepted."""
        hosts = [value for name, value in headers if name.lower() == "host"]
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return "expected this page's own address as Host"
        for name, value in headers:
            if name.lower() == "origin" and urlsplit(value).netloc.lower() != hosts[0].lower():
                return "expected a request of this page, got one of another"
            if name.lower() == "sec-fetch-site" and value in ("cross-site", "same-site"):
                modes = [mode for other, mode in headers if other.lower() == "sec-fetch-mode"]
                if modes != ["navigate"]:
                    return "expected a request of this page, got one of another site"
        return ""

    def _is_own(self, host: str) -> bool:
        """Return whether a Host header names this machine. An address, unlike a name, cannot be pointed elsewhere."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            return self.everywhere and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def given_of(model: ShaLa, rows: Rows | None, request: Request) -> Rows | None:
    """Return the row that a request gives, or None for joint samples.

    Raises:
        DataError: A file or a text cannot be used, the row lacks a requested modality, or nothing is left to generate.
    """
    own = given_row(model.modalities, request.given) if request.given else None
    from_row = [name for name in request.from_row if name not in request.given]
    if rows is None or request.row is None or not from_row:
        found = own
    else:
        chosen = rows.take(torch.tensor([request.row]))
        lacking = [name for name in from_row if not chosen.presence[0, model.names.index(name)]]
        if lacking:
            raise DataError(f"row {chosen.keys[0]!r} has no {lacking[0]}; choose another row or leave it out")
        x = {name: own.x[name] if own is not None and name in request.given else chosen.x[name] for name in model.names}
        given = [name in from_row or name in request.given for name in model.names]
        found = attrs.evolve(chosen, x=x, presence=torch.tensor([given]))
    if found is not None and bool(found.presence.all()) and not request.impute:
        raise DataError("every modality is given; leave out the ones to generate, or choose to generate them too")
    return found


def answer(model: ShaLa, rows: Rows | None, request: Request) -> tuple[list[SignalGroup], bytes]:
    """Return groups of the given signals and of each sample, and a zip archive of the samples' own files.

    Raises:
        DataError: As in `given_of`.
    """
    given = given_of(model, rows, request)
    there = [] if given is None else [n for n, p in zip(model.names, given.presence[0].tolist(), strict=True) if p]
    scales: dict[str, Any] = {
        "autoguidance_scale": request.autoguidance_scale,
        "num_steps": request.num_steps,
        "seed": request.seed,
    }
    if given is None:
        x = model.generate(request.num_samples, **scales)
    else:
        condition = {name: given.x[name] for name in there}
        x = {
            name: value[0]
            for name, value in model.generate(
                request.num_samples, given=condition, guidance_scale=request.guidance_scale, **scales
            ).items()
        }
    panels, archive = [], io.BytesIO()
    if given is not None:
        panels.append(
            SignalGroup(
                "given",
                [Cell(name, media_of(model.modalities[name].preview(given.x[name][0])), "given") for name in there],
            )
        )
    wanted = [name for name in model.names if request.impute or name not in there]
    with zipfile.ZipFile(archive, "w") as file:
        for n in range(request.num_samples):
            cells = [
                Cell(
                    f"{name}, the model's version" if name in there else name,
                    media_of(model.modalities[name].preview(x[name][n])),
                    "generated",
                )
                for name in wanted
            ]
            panels.append(SignalGroup(f"sample {n + 1}", cells))
            for name in wanted:
                for extension, content in model.modalities[name].write(x[name][n]).items():
                    file.writestr(f"{n:03d}.{name}.{extension}", content)
    return panels, archive.getvalue()


def panels_as_html(panels: Sequence[SignalGroup]) -> str:
    """Format groups of signals as a part of a page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shala_framework", "report/templates"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("panels.html.jinja").render(panels=panels)


def refusal_as_html(error: Exception) -> str:
    """Format the reason why a request failed as a part of a page."""
    return f"<p><strong>Cannot be done.</strong> {html.escape(printable(str(error)))}</p>"


def waiting_as_html(num_samples: int) -> str:
    """Format what the page says at once when a person asks for samples."""
    noun = "sample" if num_samples == 1 else "samples"
    return f'<p role="status">Generating {num_samples} {noun} ...</p>'


def build_page(model: ShaLa, rows: Rows | None, folder: str) -> Any:
    """Build the Gradio page.

    Args:
        model: Model that generates.
        rows: Held-out rows to choose from, or None.
        folder: Folder for archives to download.

    Raises:
        ImportError: Gradio is not installed.
    """
    import gradio

    settings, names = model.spec.generate, model.names
    labels = (
        []
        if rows is None
        else [
            printable(f"{n}: {key} {label_title(label)}".strip(), lines=False)
            for n, (key, label) in enumerate(zip(rows.keys, rows.labels, strict=True))
        ]
    )
    typed = {name for name in names if model.modalities[name].typed("") is not None}

    def respond(
        row: str, from_row: list[str], impute: bool, count: float, guidance: float, autoguidance: float, steps: float,
        seed: float, *given: str | None,
    ) -> Iterator[tuple[str, str | None, str]]:  # fmt: skip
        yield "", None, waiting_as_html(int(count))
        try:
            request = Request(
                given={
                    name: value if name in typed else Path(value)
                    for name, value in zip(names, given, strict=True)
                    if value is not None and value.strip()
                },
                row=None if row == NOTHING else labels.index(row),
                from_row=from_row,
                impute=impute,
                num_samples=int(count),
                guidance_scale=guidance,
                autoguidance_scale=autoguidance,
                num_steps=int(steps),
                seed=int(seed),
            )
            panels, archive = answer(model, rows, request)
        except (ShalaError, ValueError, OverflowError) as error:  # the last two for values that no slider offers
            yield "", None, refusal_as_html(error)
            return
        path = Path(folder) / FILES
        write_file(path, archive)
        yield panels_as_html(panels), str(path), ""

    with gradio.Blocks(title=f"{model.spec.name}: explore", analytics_enabled=False) as page:
        gradio.Markdown(
            f"# {model.spec.name}\nGive any of {', '.join(names)} and get the others, or nothing to get all."
        )
        if model.synthetic:
            gradio.Markdown(f"**{SYNTHETIC}**: this model has seen no real recording.")
        with gradio.Row():
            with gradio.Column(scale=1):
                given = [_input(gradio, name, model.modalities[name]) for name in names]
                row = gradio.Dropdown([NOTHING, *labels], value=NOTHING, label="or a held-out row", elem_id="row")
                from_row = gradio.CheckboxGroup(list(names), label="modalities of this row", elem_id="from-row")
                impute = gradio.Checkbox(False, label="also generate what is given", elem_id="impute")
                count = gradio.Slider(1, MOST_SAMPLES, value=4, step=1, label="samples")
                guidance = gradio.Slider(0, 5, value=model.guidance.guidance_scale, step=0.1, label="guidance")
                autoguidance = gradio.Slider(
                    0, 5, value=model.guidance.autoguidance_scale, step=0.1, label="autoguidance"
                )
                steps = gradio.Slider(2, MOST_STEPS, value=settings.num_steps, step=1, label="sampler steps")
                seed = gradio.Number(0, precision=0, minimum=0, label="seed")
                go = gradio.Button("Generate", variant="primary", elem_id="go")
            with gradio.Column(scale=2):
                message = gradio.HTML(elem_id="message")
                shown = gradio.HTML(elem_id="shown")
                archive = gradio.File(label="files of the samples", interactive=False, elem_id="archive")
        go.click(
            respond,
            [row, from_row, impute, count, guidance, autoguidance, steps, seed, *given],
            [shown, archive, message],
            show_progress="minimal",
        )
    return page


def input_kind(modality: Modality) -> MediaKind | Literal["typed", "file"]:
    """Return how a person gives a modality on the page: as text, as media of its first field's kind, or as a file."""
    if modality.typed("") is not None:
        return "typed"
    return media_kind(modality.fields[0]) or "file"


def _input(gradio: Any, name: str, modality: Modality) -> Any:
    """Build the component that takes a modality. All but the text box return the path of a file."""
    kind, identity = input_kind(modality), f"given-{name}"
    if kind == "typed":
        return gradio.Textbox(label=name, placeholder="type or paste here", lines=2, elem_id=identity)
    if kind == "sound":
        return gradio.Audio(label=name, type="filepath", sources=["upload", "microphone"], elem_id=identity)
    if kind == "clip":
        return gradio.Video(label=name, sources=["upload", "webcam"], height=260, elem_id=identity)
    if kind == "picture":
        sources = ["upload", "webcam", "clipboard"]
        picture = gradio.Image(label=name, type="filepath", sources=sources, height=220, elem_id=identity)
        # Gradio's own method opens the picture, re-encodes it, and fails with a message of its own. The modality reads
        # the bytes that the person gave, and says what is wrong with them.
        picture.preprocess = lambda payload: None if payload is None else payload.path
        return picture
    return gradio.File(
        label=f"{name}: a file ({', '.join(modality.fields)})",
        file_types=[f".{field.rpartition('.')[2]}" for field in modality.fields],
        height=110,
        elem_id=identity,
    )
