"""Declares options that several commands share, makes options from dataclasses, and parses numbers and sizes.

Nothing heavy is imported here: `segnext --help` reads this module.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from segnext.data.shipped import CLASSIFICATION, list_sets
from segnext.models.registry import SIZES
from segnext.one_line import one_line

if TYPE_CHECKING:
    from segnext.predict.inference import Inference

SIZE_NAMES = ", ".join(SIZES)  # "t, s, b, l"
LARGEST_SIDE = 100_000  # pixels, and images at once: an activation of more has more values than 64 bits count

Data = Annotated[
    str,
    typer.Argument(
        help=f"A data YAML, or the name of a shipped one: {', '.join(list_sets())}; "
        f"or {CLASSIFICATION}: class folders, for an encoder (mscan_t ...)."
    ),
]
Root = Annotated[Path | None, typer.Option(help="Folder of the data, if not the YAML's own.")]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="A name (`segnext weights` lists them), a checkpoint in any known layout, or an exported file.",
    ),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1 ...")]
# More threads than any machine has cores are a mistake; starting them ends the process.
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; default: PyTorch's choice.")]
MatmulPrecision = Annotated[
    Literal["highest", "high"],
    typer.Option(
        help="float32 products: whole, or of bfloat16 pieces (faster on CPUs with AMX; on a GPU TF32)."
    ),
]
Size = Annotated[str, typer.Option(help="Input size: 512, or HEIGHTxWIDTH such as 1024x2048.")]
Batch = Annotated[int, typer.Option(min=1, max=LARGEST_SIDE, help="Images at once.")]


def configure_torch(threads: int | None, matmul_precision: str = "highest") -> None:
    """Set what a command's options say about PyTorch in this process."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(matmul_precision)


def output_option(text: str) -> Any:
    """Return the option of the place for the results; ``~`` in it is the user's home, as in ``-o=~/masks`` too."""
    return typer.Option("--output", "-o", help=text, callback=at_home)


def at_home(path: Path | None) -> Path | None:
    """Return a path in which ``~`` is the user's home, as a callback of options."""
    from segnext import atomic

    return None if path is None else atomic.at_home(path)


@dataclass(frozen=True)
class InferenceOptions:
    """How an image goes through the network, as command-line options; a field's text is its option's help."""

    mode: Annotated[
        Literal["whole", "slide"],
        "The whole image at once, or overlapping windows (large images, Cityscapes protocol).",
    ] = "whole"
    crop: Annotated[int, "slide: side of a window, in pixels."] = 1024
    stride: Annotated[int | None, "slide: step between windows; default 3/4 of the crop."] = None
    scales: Annotated[str, "Average over these sizes, e.g. 0.5,0.75,1,1.25,1.5,1.75 (slower, better)."] = "1"
    flip: Annotated[bool, "Average with the mirrored image too."] = False
    short_side: Annotated[
        int | None,
        "Resize images to this for the network (ADE20K: 512); 0: never. Default: the weights' (val: else the data's).",
    ] = None
    protocol: Annotated[
        Literal["native", "official", "mmseg1"],
        "How sizes are made: official (resized again to multiples of 32), mmseg1 (padded to them), native (neither).",
    ] = "native"

    def inference(self) -> Inference:
        """Return the protocol that these options describe.

        Raises:
            ValueError: an option is out of range.
        """
        from segnext.predict.inference import Inference

        return Inference(**{**asdict(self), "scales": parse_numbers("--scales", self.scales)})


Options = TypeVar("Options")


class Chosen(Generic[Options]):
    """The options of one dataclass on a command line, whose defaults another source may replace.

    Args:
        kind: the dataclass.
        values: the value of each field.
        given: the names of those that are on the line.
    """

    def __init__(self, kind: type[Options], values: dict[str, Any], given: Collection[str]) -> None:
        self.kind, self.values, self.given = kind, values, given

    def over(self, defaults: Mapping[str, Any]) -> Options:
        """Return the dataclass with these values for the options that are not on the line; raises what it raises."""
        replaced = {name: value for name, value in defaults.items() if name not in self.given}
        return self.kind(**{**self.values, **replaced})


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field for each parameter whose type is a dataclass.

    Fields are ``Annotated[type, "help"]``; the parameter's default is an instance, which gives the options their
    defaults. A switch that is off by default has no ``--no-`` form. The command itself gets the dataclass, or, where
    the type is ``Chosen[dataclass]``, what can still take other defaults.
    """
    parameters: list[inspect.Parameter] = []
    kinds: dict[str, Any] = {}
    # Not get_type_hints: for a default of None, Python 3.10's wraps Annotated in Optional, which hides it from typer.
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if is_dataclass(kind) or get_origin(kind) is Chosen:
            kinds[parameter.name] = kind
            parameters += _options_of(_dataclass_of(kind), parameter.default)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(command)
    def run(*, context: typer.Context, **values: Any) -> None:
        for name, kind in kinds.items():
            dataclass = _dataclass_of(kind)
            own = {field.name: values.pop(field.name) for field in fields(dataclass)}
            given = {field for field in own if _is_given(context, field)}
            values[name] = dataclass(**own) if kind is dataclass else Chosen(dataclass, own, given)
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _dataclass_of(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Chosen else kind


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _options_of(kind: Any, defaults: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    options = []
    for field in fields(kind):
        given_type, text = hints[field.name].__origin__, hints[field.name].__metadata__[0]
        default = getattr(defaults, field.name)
        names = (f"--{field.name.replace('_', '-')}",) if default is False else ()
        annotation = cast(Any, Annotated)[given_type, typer.Option(*names, help=text)]
        options.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    return options


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of a text such as ``"0.75,1,1.25"``.

    Raises:
        ValueError: the text is anything else; the message names `option`.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"{option} must be numbers separated by commas, got {text!r}; for example 0.75,1,1.25"
        ) from None


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Return height and width of a text such as ``"512"`` or ``"1024x2048"``.

    Raises:
        ValueError: the text is anything else; the message names `option`.
    """
    words = text.lower().split("x")
    if len(words) > 2 or not all(word.strip().isdecimal() for word in words):
        raise ValueError(
            f"{option} must be a side or HEIGHTxWIDTH in pixels, got {text!r}; for example 512x1024"
        )
    height, width = int(words[0]), int(words[-1])
    if not 1 <= min(height, width) <= max(height, width) <= LARGEST_SIDE:
        raise ValueError(f"{option} must be from 1 to {LARGEST_SIDE:,} pixels, got {one_line(repr(text))}")
    return height, width
