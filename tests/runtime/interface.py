"""The C interface of the runtime, called from Python by ctypes, for tests."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path

import numpy as np

OK, INVALID_ARGUMENT, BAD_FILE, UNSUPPORTED, OUT_OF_MEMORY, NON_FINITE = range(6)
DTYPE_OF_FILE, FLOAT32, BFLOAT16 = range(3)
SIGNATURES = {
    "segnext_runtime_version": (c_char_p,),
    "segnext_last_message": (c_char_p,),
    "segnext_open": (c_int, c_char_p, c_int, c_int, POINTER(c_void_p)),
    "segnext_close": (None, c_void_p),
    "segnext_num_classes": (c_int, c_void_p),
    "segnext_class_name": (c_char_p, c_void_p, c_int),
    "segnext_palette": (c_void_p, c_void_p),
    "segnext_in_channels": (c_int, c_void_p),
    "segnext_mask_bytes": (c_int, c_void_p),
    "segnext_logits_shape": (c_int, c_void_p, c_int64, c_int64, POINTER(c_int64)),
    "segnext_predict": (c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    "segnext_logits": (c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
}


class Failure(Exception):
    """A call's status that is not OK, and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Library:
    """A loaded libsegnext.so."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name, (result, *arguments) in SIGNATURES.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def expect(self, status: int) -> None:
        """Raise a Failure unless a call succeeded; its message has one line."""
        if status != OK:
            raise Failure(status, self.c.segnext_last_message().decode())

    def open(self, path: Path | str, dtype: int = DTYPE_OF_FILE, threads: int = 1) -> Model:
        """Open a file."""
        handle = c_void_p()
        self.expect(self.c.segnext_open(str(path).encode(), dtype, threads, ctypes.byref(handle)))
        return Model(self, handle)


class Model:
    """An open model, which is closed when nobody needs it any more."""

    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.handle = library, handle

    def __del__(self) -> None:
        self.library.c.segnext_close(self.handle)

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        c = self.library.c
        names = [c.segnext_class_name(self.handle, i) for i in range(c.segnext_num_classes(self.handle))]
        return [name.decode() for name in names]

    @property
    def palette(self) -> np.ndarray | None:
        """The colours (K, 3) of the classes."""
        address = self.library.c.segnext_palette(self.handle)
        if address is None:
            return None
        count = self.library.c.segnext_num_classes(self.handle)
        return np.ctypeslib.as_array((ctypes.c_uint8 * (3 * count)).from_address(address)).reshape(-1, 3)

    def logits_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return (K, h, w) for an image's size."""
        shape = (c_int64 * 3)()
        self.library.expect(self.library.c.segnext_logits_shape(self.handle, height, width, shape))
        return tuple(shape)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits (N, K, h, w) of normalised images (N, C, H, W)."""
        batch, _, height, width = images.shape
        assert images.dtype == np.float32 and images.flags.c_contiguous
        out = np.full((batch, *self.logits_shape(height, width)), np.nan, np.float32)
        status = self.library.c.segnext_logits(
            self.handle, images.ctypes.data, batch, height, width, out.ctypes.data
        )
        self.library.expect(status)
        return out

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """Return the mask (H, W) of an image (H, W, C), whose rows may have gaps between them."""
        height, width, channels = pixels.shape
        assert pixels.dtype == np.uint8 and pixels.strides[1:] == (channels, 1)
        kind = {1: np.uint8, 4: np.int32}[self.library.c.segnext_mask_bytes(self.handle)]
        mask = np.full((height, width), 99, kind)
        status = self.library.c.segnext_predict(
            self.handle, pixels.ctypes.data, height, width, pixels.strides[0], mask.ctypes.data
        )
        self.library.expect(status)
        return mask
