"""`segnext serve`: models over HTTP, with a page to try them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from segnext.cli._options import (
    Device,
    InferenceOptions,
    MatmulPrecision,
    Threads,
    configure_torch,
    expanded,
)

TOKEN = "SEGNEXT_TOKEN"


@expanded
def serve(
    weights: Annotated[
        list[str],
        typer.Option(
            "--weights",
            "-w",
            metavar="WEIGHTS|NAME=PATH",
            help="As in predict; give it again for more models. The first is the default.",
        ),
    ] = ["camvid"],  # noqa: B006 (typer copies it)
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File of the token that clients must send; or the environment's {TOKEN}."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="On loopback, answer this Host header too: a reverse proxy's name."
        ),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Largest body of a request.")] = 32_000_000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest image.")] = 25_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Images in one request to /v1/segment-batch.")] = 32,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a request: upload, queue and model.")
    ] = 30.0,
    max_concurrency: Annotated[int, typer.Option(min=1, help="Requests at once, uploads included.")] = 512,
    queue: Annotated[int, typer.Option(min=1, help="Images per model that wait or run.")] = 256,
    max_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Waiting images of one size that run together; default: 1, on a GPU 8."),
    ] = None,
    log: Annotated[
        Literal["json", "text"], typer.Option(help="A line per request, to the standard error.")
    ] = "json",
    options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Arithmetic of the networks.")
    ] = "float32",
    threads: Threads = None,
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Serve models over HTTP: a page to try them at /, the interface at /docs.

    Examples:

      segnext serve

      curl -F image=@street.jpg "http://127.0.0.1:8000/v1/segment?output=overlay" -o overlay.jpg

      segnext serve --weights camvid --weights mine=runs/mine/final.safetensors --device cuda

      SEGNEXT_TOKEN=$(cat token) segnext serve --host 0.0.0.0 --port 80

    Needs pip install 'segnext[serve]'. Only this machine reaches it, unless --host says otherwise. Weights are read at
    the start. SIGTERM and Ctrl-C end it after all requests are answered, with status 0; a second one ends it at once.
    """
    import sys

    from segnext.serve.app import create_app
    from segnext.serve.logs import configure
    from segnext.serve.server import address, is_loopback, listening_socket, server_of
    from segnext.serve.settings import Settings

    settings = Settings(
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        timeout=timeout,
        max_concurrency=max_concurrency,
        queue=queue,
        max_batch=max_batch,
    )
    token = _token(token_file)
    listener = listening_socket(host, port)
    local = is_loopback(listener)
    configure_torch(threads, matmul_precision)
    _set_pixel_limit(max_pixels)
    models = {}
    import torch

    from segnext.predict.predictor import Predictor

    for name, source in _named(weights).items():
        models[name] = Predictor(
            source, device=device, dtype=getattr(torch, dtype), inference=options.inference()
        )
    hosts = ["localhost", "127.0.0.1", "[::1]", host, *(allow_host or [])] if local else None
    app = create_app(models, settings, token=token, hosts=hosts)
    configure(log)
    print(
        f"segnext: serving {', '.join(models)} at {address(listener)}; Ctrl-C ends it",
        file=sys.stderr,
        flush=True,
    )
    if not local and token is None:
        print(
            f"segnext: note: everybody who reaches {host} may use it; --token-file or {TOKEN} sets a token",
            file=sys.stderr,
            flush=True,
        )
    server_of(app).run(sockets=[listener])


def _named(weights: list[str]) -> dict[str, str]:
    """Map the name of each model to its weights."""
    found: dict[str, str] = {}
    for text in weights:
        name, equals, source = text.partition("=")
        if not equals or "/" in name:
            name, source = Path(text).stem, text
        if name in found:
            raise ValueError(
                f"serve: --weights must have different names, got {name} twice; name them NAME=PATH"
            )
        found[name] = source
    return found


def _token(file: Path | None) -> str | None:
    """Return the token of a file, or else of the environment; it is never on the command line, which others can see."""
    import os

    token = (
        os.environ.get(TOKEN) if file is None else file.read_text(encoding="utf-8", errors="replace").strip()
    )
    source = TOKEN if file is None else str(file)
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(
            f"serve: the token must be printable ASCII without spaces, got something else in {source}"
        )
    return token


def _set_pixel_limit(max_pixels: int) -> None:
    from PIL import Image

    # Pillow has a limit of its own, and refuses images above twice that.
    Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)
