"""The application: its endpoints, as any ASGI server runs them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import Receive

from segnext.one_line import one_line
from segnext.predict.predictor import Predictor
from segnext.serve import bodies, description, metrics, reference
from segnext.serve.answers import Answer, MaskForm, Output, Wanted
from segnext.serve.errors import ServiceError
from segnext.serve.gate import Gate, refusal
from segnext.serve.logs import LOGGER, Record
from segnext.serve.service import Model, Service
from segnext.serve.settings import Settings
from segnext_kernels import __version__

PAGE = Path(__file__).with_name("page")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

T = TypeVar("T")
ModelName = Annotated[str | None, Query(description="A name of `/v1/models`; the default model otherwise.")]
Masks = Annotated[MaskForm, Query(description="The form of the mask in JSON.")]


def create_app(
    models: Mapping[str, Predictor],
    settings: Settings | None = None,
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
) -> FastAPI:
    """Return an ASGI application that segments images; it needs asyncio, and runs in one process.

        from segnext import Predictor
        from segnext.serve import create_app
        app = create_app({"camvid": Predictor("camvid")})     # uvicorn module:app

    Args:
        models: predictors by name; the first is the default. Their weights are in memory already: a file that
            disappears later changes nothing.
        settings: the limits.
        token: clients of the API must send it as ``Authorization: Bearer ...``; None: they need none.
        hosts: names in the ``Host`` header that are answered; None: any.

    Raises:
        ValueError: there is no model, a name is not of letters, digits and ``._-``, a model does not take RGB
            photographs, or the token is empty.
    """
    for name in models:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"serve: a model's name must be of letters, digits and ._- only, got {one_line(repr(name))}; "
                "name it NAME=PATH"
            )
    if token is not None and not token.strip():
        raise ValueError(
            "serve: the token must not be empty, got nothing; write at least 16 random characters"
        )
    service = Service(models, settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        warming = asyncio.ensure_future(_warm_up(service))
        yield
        warming.cancel()
        service.is_draining = True
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="segnext serve",
        version=__version__,
        description=description.TEXT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.add_middleware(Gate, service=service, token=token, hosts=hosts)
    app.add_exception_handler(ServiceError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_api(app, service, token is not None)
    _add_probes(app, service)
    _add_pages(app)
    description.complete(app, token is not None)
    return app


async def _warm_up(service: Service) -> None:
    try:
        await service.warm_up()
    except Exception:
        LOGGER.exception("the first image failed; the service does not get ready")


def _add_api(app: FastAPI, service: Service, token_required: bool) -> None:
    limits = service.settings

    @app.get("/v1/models", **description.MODELS)
    async def models() -> dict[str, Any]:
        """List the models, their classes, and the limits of a request."""
        first = next(iter(service.models))
        return {
            "models": [model.as_json(name == first) for name, model in service.models.items()],
            "limits": {"bytes": limits.max_bytes, "pixels": limits.max_pixels, "batch": limits.max_images},
            "token_required": token_required,
        }

    @app.post("/v1/segment", **description.SEGMENT)
    async def segment(
        request: Request,
        model: ModelName = None,
        output: Annotated[
            Output, Query(description="JSON, a PNG of class ids, or the tinted photograph.")
        ] = "json",
        masks: Masks = "runs",
        alpha: Annotated[float, Query(ge=0, le=1, description="Strength of the overlay's colours.")] = 0.5,
        legend: Annotated[bool, Query(description="Whether the overlay has a legend.")] = True,
    ) -> Response:
        """Segment one image: the body is its file, or a form whose part `image` is its file."""
        record: Record = request.state.record
        chosen = service.model(model)
        record.model = chosen.name
        with service.request(chosen), service.memory.body() as body:
            content = (await _images(request, service, body, "image", 1))[0]
            wanted = Wanted(output, masks, alpha, legend)
            answer = await _in_time(request, service, service.segment(chosen, content, wanted))
            record.height, record.width = answer.size
            return Response(answer.with_time(record.elapsed()), media_type=answer.media_type)

    @app.post("/v1/segment-batch", **description.BATCH)
    async def segment_batch(request: Request, model: ModelName = None, masks: Masks = "runs") -> Response:
        """Segment several images: a form whose parts `images` are their files. One that fails does not stop others."""
        record: Record = request.state.record
        chosen = service.model(model)
        record.model = chosen.name
        with service.request(chosen), service.memory.body() as body:
            contents = await _images(request, service, body, "images", limits.max_images)
            record.images = len(contents)
            work = _each(service, chosen, contents, Wanted(masks=masks), record)
            return Response(await _in_time(request, service, work), media_type="application/json")


async def _each(
    service: Service, model: Model, contents: list[bytes], wanted: Wanted, record: Record
) -> bytes:
    """Return the JSON of several images, each with its answer or its error."""

    async def one(content: bytes) -> Answer | ServiceError:
        try:
            return await service.segment(model, content, wanted)
        except ServiceError as error:
            return error

    done = await asyncio.gather(*map(one, contents))
    if all(isinstance(result, ServiceError) and result.code == "queue_full" for result in done):
        raise next(result for result in done if isinstance(result, ServiceError))
    results = [
        JSONResponse(result.as_json()).body
        if isinstance(result, ServiceError)
        else result.with_time(record.elapsed())
        for result in done
    ]
    return b'{"results": [%b]}' % b", ".join(results)


async def _images(request: Request, service: Service, body: bodies.Body, part: str, most: int) -> list[bytes]:
    """Return the files that a request sends, in a form or as its body."""
    record: Record = request.state.record
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    is_file = kind.startswith("image/") or kind == "application/octet-stream"
    if not is_form and not (is_file and part == "image"):
        files = "image/* or application/octet-stream for the file itself, or " if part == "image" else ""
        raise ServiceError(
            "unsupported_type",
            f"Content-Type must be {files}multipart/form-data with a part {part!r}, got {one_line(repr(kind), 60)}; "
            + ("curl: -H 'Content-Type: image/jpeg'" if part == "image" else f"curl: -F {part}=@photo.jpg"),
        )
    try:
        with anyio.fail_after(service.settings.timeout - record.elapsed()):
            content = await bodies.read(request, service.settings.max_bytes, body)
    except TimeoutError:
        raise ServiceError(
            "upload_too_slow",
            f"the image must be here within {service.settings.timeout:g} seconds, got {body.counted:,} bytes; send a "
            "smaller one",
        ) from None
    except ClientDisconnect:
        raise ServiceError("client_gone", "the client went away while it sent the image") from None
    finally:
        record.bytes = body.counted
    return await bodies.images_of_form(request.headers, content, part, most) if is_form else [content]


async def _in_time(request: Request, service: Service, work: Awaitable[T]) -> T:
    """Await work until the request's time is over, or its client is gone."""
    record: Record = request.state.record
    try:
        with anyio.fail_after(service.settings.timeout - record.elapsed()):
            return await _unless_gone(request.receive, work)
    except TimeoutError:
        raise ServiceError(
            "timed_out",
            f"the answer must be there within {service.settings.timeout:g} seconds, and was not; send fewer or smaller "
            "images, or start the service with a longer --timeout",
        ) from None


async def _unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ServiceError("client_gone", "the client went away before its answer was there")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/livez", **description.LIVE)
    async def live() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "alive"}

    @app.get("/readyz", **description.READY)
    async def ready() -> dict[str, str]:
        """Say whether requests are welcome: all models ran once, and the service is not about to end."""
        if not service.is_ready:
            reason = "it is about to end" if service.is_draining else "its models are warming up"
            raise ServiceError("not_ready", f"the service is not ready, {reason}; try again", 1)
        return {"status": "ready"}

    @app.get("/metrics", **description.METRICS)
    async def numbers() -> Response:
        """Give the numbers that Prometheus asks for."""
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(
            reference.page(app.openapi()), headers={"content-security-policy": reference.POLICY}
        )

    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False), name="page")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return refusal(error, request.state.record)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        answer = ServiceError(
            "method_not_allowed", f"the method must be {allowed}, got {request.state.record.method}"
        )
    else:
        answer = ServiceError("not_found", "there is no such path; /docs lists those that are")
    response = refusal(answer, request.state.record)
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name, got = first["loc"][-1], one_line(repr(first.get("input")), 60)
    message = f"parameter {name}: {first['msg'][0].lower()}{first['msg'][1:]}, got {got}"
    return refusal(ServiceError("invalid_parameter", message), request.state.record)
