"""What the service answers when it cannot do what was asked: a status, a code for programs, a line for people."""

from __future__ import annotations

STATUSES = {
    "bad_request": 400,
    "wrong_host": 400,
    "empty_body": 400,
    "upload_truncated": 400,
    "multipart_invalid": 400,
    "token_required": 401,
    "cross_site": 403,
    "not_found": 404,
    "unknown_model": 404,
    "method_not_allowed": 405,
    "upload_too_slow": 408,
    "body_too_large": 413,
    "image_too_large": 413,
    "too_many_images": 413,
    "unsupported_type": 415,
    "unsupported_image": 415,
    "damaged_image": 422,
    "invalid_parameter": 422,
    "client_gone": 499,  # nobody reads it; the log has it
    "headers_too_large": 431,
    "internal_error": 500,
    "too_busy": 503,
    "queue_full": 503,
    "not_ready": 503,
    "timed_out": 504,
}
"""The HTTP status of each error code."""


class ServiceError(Exception):
    """A request that gets an error for an answer.

    Attributes:
        code: one of `STATUSES`.
        message: one line that names the cure.
        status: of HTTP.
        retry_after: seconds after which it may go better; None: waiting does not help.
    """

    def __init__(self, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after = code, message, retry_after
        self.status = STATUSES[code]

    def as_json(self) -> dict[str, dict[str, str]]:
        """Return the answer's body."""
        return {"error": {"code": self.code, "message": self.message}}
