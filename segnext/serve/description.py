"""The description of the endpoints for /openapi.json: schemas, examples, and the errors of each."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from segnext.serve.errors import STATUSES

TEXT = """Segments photographs with SegNeXt. Send the bytes of an image, never an address of one.

Every error is JSON: `{"error": {"code": "...", "message": "one line that says what helps"}}`. Each answer has the
header `X-Request-Id`, which the service's log has too."""


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ClassOfModel(_Schema):
    id: int = Field(examples=[3])
    name: str = Field(examples=["road"])
    color: str = Field(pattern="^#[0-9a-f]{6}$", examples=["#804080"])


class ClassInImage(ClassOfModel):
    share: float = Field(description="Of the image's pixels, above 0.", gt=0, le=1, examples=[0.317])


class ServedModel(_Schema):
    name: str = Field(examples=["camvid"])
    architecture: str = Field(examples=["segnext_t"])
    default: bool
    classes: list[ClassOfModel]


class Limits(_Schema):
    bytes: int = Field(description="Of a request's body.")
    pixels: int = Field(description="Of an image.")
    batch: int = Field(description="Images in one request.")


class Models(_Schema):
    models: list[ServedModel]
    limits: Limits
    token_required: bool


class Runs(_Schema):
    runs: list[int] = Field(
        description="[id, length, id, length, ...] over the whole mask, row by row from the upper left corner.",
        examples=[[3, 200, 0, 56]],
    )


class RunLengthsOfClass(_Schema):
    id: int
    size: list[int] = Field(description="[height, width]", min_length=2, max_length=2)
    counts: list[int] = Field(
        description="COCO's uncompressed RLE: runs down the columns, in turn outside and inside of the class."
    )


class RunLengths(_Schema):
    rle: list[RunLengthsOfClass]


class PolygonsOfClass(_Schema):
    id: int
    polygons: list[list[list[float]]] = Field(
        description="Each polygon is a list of rings, the outer one and then its holes; a ring is [x, y, x, y, ...] in "
        "pixels. A pixel is inside if its centre is; the centre of the first pixel is (0.5, 0.5)."
    )


class Polygons(_Schema):
    polygons: list[PolygonsOfClass]


class Segmentation(_Schema):
    model: str = Field(examples=["camvid"])
    width: int = Field(description="Of the upright image, in pixels.", examples=[512])
    height: int = Field(examples=[512])
    seconds: float = Field(description="Of the model alone.", examples=[0.041])
    classes: list[ClassInImage] = Field(description="Those that are present, the largest first.")
    mask: Runs | RunLengths | Polygons | None = Field(description="In the form of the parameter `masks`.")
    seconds_total: float = Field(description="In the service, upload and queue included.", examples=[0.046])


class ErrorBody(_Schema):
    code: str = Field(examples=["image_too_large"])
    message: str = Field(description="One line that says what helps.")


class Error(_Schema):
    error: ErrorBody


class Segmentations(_Schema):
    results: list[Segmentation | Error] = Field(description="One for each image, in their order.")


class Status(_Schema):
    status: str = Field(examples=["ready"])


_MEANINGS = {
    "bad_request": "what came is not HTTP, or its headers are too large; this answer closes the connection",
    "wrong_host": "the Host header names another service",
    "empty_body": "nothing was sent",
    "upload_truncated": "the connection ended before the image did",
    "multipart_invalid": "the form is damaged, or has no file in the right part",
    "token_required": "the service has a token, and the request has another or none",
    "cross_site": "a web page of another origin sent this",
    "unknown_model": "no model has this name",
    "upload_too_slow": "the image was not here in time",
    "body_too_large": "the body has more bytes than one may send",
    "image_too_large": "the image has more pixels than one may send, or than memory holds",
    "too_many_images": "the form has more files than one may send",
    "unsupported_type": "Content-Type is none that is taken",
    "unsupported_image": "the bytes are no image of a format that is read",
    "damaged_image": "the image cannot be decoded",
    "invalid_parameter": "a parameter has a value that it must not have",
    "headers_too_large": "address and headers have more bytes than they may have",
    "internal_error": "a fault of the service; its log has the reason under this id",
    "too_busy": "too many requests or uploads at once; Retry-After says when to try again",
    "queue_full": "too many images wait for this model; Retry-After says when to try again",
    "not_ready": "the models are warming up, or the service is about to end",
    "timed_out": "the answer was not there in time",
}
_ALWAYS = ("bad_request", "wrong_host", "headers_too_large", "internal_error")
_UPLOAD = (
    *_ALWAYS,
    *("empty_body", "upload_truncated", "multipart_invalid", "token_required", "cross_site", "unknown_model"),
    *(
        "upload_too_slow",
        "body_too_large",
        "unsupported_type",
        "invalid_parameter",
        "too_busy",
        "queue_full",
        "timed_out",
    ),
)
_PER_IMAGE = ("image_too_large", "unsupported_image", "damaged_image")


def _errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the description of answers that are errors, with an example of each code."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status = found.setdefault(STATUSES[code], {"model": Error, "description": "", "content": {}})
        status["description"] += ("; " if status["description"] else "") + f"`{code}`: {_MEANINGS[code]}"
        content = status["content"].setdefault("application/json", {"examples": {}})
        content["examples"][code] = {"value": {"error": {"code": code, "message": _MEANINGS[code]}}}
        if STATUSES[code] == 503:
            seconds = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
            status["headers"] = {"Retry-After": seconds}
    return found


_FILE = {"schema": {"type": "string", "format": "binary"}}


def _form(part: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [part], "properties": {part: schema}}}


_CLASS = {"id": 3, "name": "road", "color": "#804080"}
_SEGMENTATION = {
    "model": "camvid",
    "width": 16,
    "height": 16,
    "seconds": 0.041,
    "classes": [{**_CLASS, "share": 0.78125}, {"id": 0, "name": "sky", "color": "#808080", "share": 0.21875}],
    "mask": {"runs": [0, 56, 3, 200]},
    "seconds_total": 0.046,
}
_FAILED = {
    "error": {"code": "damaged_image", "message": "image: cannot be decoded, it is damaged or truncated"}
}
_MODELS = {
    "models": [{"name": "camvid", "architecture": "segnext_t", "default": True, "classes": [_CLASS]}],
    "limits": {"bytes": 32_000_000, "pixels": 25_000_000, "batch": 32},
    "token_required": False,
}


def _json(model: type[BaseModel], text: str, example: Any) -> dict[str, Any]:
    return {"model": model, "description": text, "content": {"application/json": {"example": example}}}


def _route(tag: str, answer: dict[str, Any], *codes: str, **more: Any) -> dict[str, Any]:
    """Return the options of a route; the answer's schema is a description, and nothing is validated at run time."""
    return {"tags": [tag], "responses": {200: answer, **_errors(*codes)}, "response_model": None, **more}


_SEGMENT_ANSWER = _json(Segmentation, "What `output` asks for.", _SEGMENTATION)
_SEGMENT_ANSWER["content"] |= {"image/png": _FILE, "image/jpeg": _FILE}
MODELS = _route("segment", _json(Models, "The models.", _MODELS), *_ALWAYS, "token_required")
SEGMENT = _route(
    "segment",
    _SEGMENT_ANSWER,
    *_UPLOAD,
    *_PER_IMAGE,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "image/*": _FILE,
                "application/octet-stream": _FILE,
                "multipart/form-data": _form("image", _FILE["schema"]),
            },
        }
    },
)
BATCH = _route(
    "segment",
    _json(Segmentations, "One result for each image, in their order.", {"results": [_SEGMENTATION, _FAILED]}),
    *_UPLOAD,
    "too_many_images",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": _form("images", {"type": "array", "items": _FILE["schema"]})},
        }
    },
)
LIVE = _route("operate", _json(Status, "The process answers.", {"status": "alive"}), *_ALWAYS)
READY = _route("operate", _json(Status, "Requests are welcome.", {"status": "ready"}), *_ALWAYS, "not_ready")
METRICS = _route(
    "operate",
    {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    *_ALWAYS,
    "token_required",
)


def complete(app: FastAPI, token_required: bool) -> None:
    """Give an application its OpenAPI document, made at the first use."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            if token_required:
                document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                for path in ("/v1/models", "/v1/segment", "/v1/segment-batch", "/metrics"):
                    for operation in document["paths"][path].values():
                        operation["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
