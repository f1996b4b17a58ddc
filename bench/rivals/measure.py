"""Measures the rows of the catalogue: costs, peak memory in a process of its own, and the time from image to mask.

Every row is checked before it is timed. All rows of one image size are timed in turns in one process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import fresh_process
from bench.clock import Clock
from bench.models.checks import TOLERANCE
from bench.models.networks import image, pair
from bench.results import Timing
from bench.rivals.catalogue import Network, Size
from oracle import transcription
from oracle.inputs import in_layout
from segnext import deploy
from segnext.measure.agreement import disagreement
from segnext.measure.costs import PeakMemory, count_costs
from segnext.measure.runtimes import label_map
from segnext.measure.timing import interleaved
from segnext.models import build

MIN_ROUNDS, MAX_ROUNDS = 2, 5
TURN = 0.7  # seconds that a turn should last: a fast network is called several times
MOST_CALLS = 10  # per turn
NEEDS_WARM_UP = 1.0  # seconds; a longer call fills the caches by itself
ALONE = 4.0  # seconds; what takes longer per call gets no process of its own, to measure its memory
PATIENCE = 60.0  # seconds for a start of that process, and for each second of a call
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Candidate:
    """One network that is ready to be called.

    Attributes:
        mask: from images (1, 3, H, W) to labels (1, H, W); this is timed.
        logits: from images to the logits (1, K, h, w) that the labels are checked with.
        module: the network, if its memory format can be chosen.
    """

    mask: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor], Tensor]
    module: nn.Module | None = None


@dataclass
class Measured:
    """Holds what was found about one row at one size.

    Attributes:
        parameters: of what the mask needs.
        multiply_adds: of convolutions and matrix products.
        layout: the memory format that is faster for a rival; ours choose theirs themselves.
        peak_mib: growth of the resident memory in a process of its own; the weights are not in it.
        seconds: of one call when it was checked, to plan with.
        times: the result; None if the row was left out.
        left_out: why.
    """

    name: str
    size: str
    classes: int
    parameters: int | None = None
    multiply_adds: int | None = None
    layout: str = ""
    peak_mib: float | None = None
    seconds: float = 0.0
    times: Timing | None = None
    left_out: str = ""


@dataclass
class Settings:
    """Says how carefully and how long to measure.

    Attributes:
        seconds: for the rounds at one size; no round begins that would probably end later, after the first two.
        limit: seconds that one call may take.
        alone: sizes at which peak memory is measured.
        say: gets a line of progress; the second argument is whether it passes quickly.
    """

    seconds: float
    limit: float
    alone: Sequence[str]
    say: Callable[[str, bool], None] = field(default=lambda line, passing: None)


def prepare(network: Network, size: Size, layout: str = "channels_last") -> Candidate:
    """Build one row with random weights, for one size."""
    if network.is_ours:
        return _ours(network, size)
    assert network.build is not None
    torch.manual_seed(0)
    module = network.build(size.classes, size.height, size.width).eval()
    module = module.to(memory_format=LAYOUTS[layout])
    logits = torch.inference_mode()(module)

    @torch.inference_mode()
    def mask(images: Tensor) -> Tensor:
        return label_map(module(images), (size.height, size.width))

    return Candidate(mask, logits, module)


_pair = cache(pair)  # one model for all forms of it


def _ours(network: Network, size: Size) -> Candidate:
    model, state_dict = _pair(network.ours, size.classes)
    logits = torch.inference_mode()(model.forward_logits)
    if network.form == "deployed":
        return Candidate(deploy(model, torch.float32).predict, logits)
    if network.form == "plain":
        return Candidate(model.predict, logits)
    own = in_layout((state_dict, model.decoder.hamburger.bases), torch.channels_last)
    return Candidate(torch.inference_mode()(partial(transcription.mask, *own)), logits)


def fresh_mask(network: Network, size: Size, layout: str) -> fresh_process.Run:
    """Make one row's call, for a process of its own."""
    return partial(prepare(network, size, layout).mask, _image(size, layout))


def _image(size: Size, layout: str) -> Tensor:
    return image(size.height, size.width).contiguous(memory_format=LAYOUTS[layout or "channels_last"])


def count(network: Network, size: Size) -> tuple[int, int, int]:
    """Return parameters, multiply-adds and the bytes of weights and activations together, without computing."""
    if network.is_ours:
        with torch.device("meta"):
            model = build(f"segnext_{network.ours}", num_classes=size.classes)
        costs = count_costs(model, size.height, size.width)
        return costs.parameters, costs.multiply_adds, 4 * costs.parameters + costs.peak_bytes
    assert network.build is not None
    with torch.device("meta"):
        module = network.build(size.classes, size.height, size.width).eval()
        images = torch.empty(1, 3, size.height, size.width)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    flops = FlopCounterMode(display=False)
    memory = PeakMemory(own=[*module.parameters(), *module.buffers()])
    with flops, memory, torch.no_grad():
        label_map(module(images), (size.height, size.width))
    return parameters, flops.get_total_flops() // 2, 4 * parameters + memory.peak


def wrong(logits: Tensor, labels: Tensor, size: Size) -> str:
    """Say what is wrong with logits or mask of a row; an empty text means that nothing is.

    The logits must be finite. The mask must have the image's size and in each pixel the class with the largest resized
    logit, or one as good up to rounding. For ours, the logits are always those of the plain model.
    """
    if logits.ndim != 4 or logits.shape[:2] != (1, size.classes):
        return f"wrong: logits must be (1, {size.classes}, h, w), got {tuple(logits.shape)}"
    if labels.shape != (1, size.height, size.width):
        return f"wrong: the mask must be (1, {size.height}, {size.width}), got {tuple(labels.shape)}"
    return disagreement(labels, logits.contiguous(), TOLERANCE)


def measure(
    size: Size, rows: Sequence[Network], settings: Settings, before: Sequence[Measured]
) -> list[Measured]:
    """Measure rows at one size.

    Args:
        size: of the image.
        rows: with installed packages.
        settings: how long.
        before: what was measured at smaller sizes, to predict times and to choose memory formats with.
    """
    found: list[Measured] = []
    runs: dict[str, Callable[[], Tensor]] = {}
    for number, network in enumerate(rows, 1):
        measured = Measured(network.name, size.name, size.classes)
        found.append(measured)
        settings.say(f"{size.name}: checking {network.name}, {number} of {len(rows)}", True)
        try:
            run = _checked(network, size, measured, settings, before)
        except Exception as error:  # one package that fails must not end the comparison
            measured.left_out = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            continue
        if run is not None:
            runs[network.name] = run
    seconds = {row.name: row.seconds for row in found if row.name in runs}
    for name, values in _in_turns(runs, seconds, size, settings).items():
        next(row for row in found if row.name == name).times = Timing.of(values)
    for row in found:
        if row.left_out:
            settings.say(f"{size.name}: {row.name} is left out: {row.left_out}", False)
    return found


def _checked(
    network: Network, size: Size, row: Measured, settings: Settings, before: Sequence[Measured]
) -> Callable[[], Tensor] | None:
    """Count, build and check one row, and measure its memory; return the call to time, None if it is left out."""
    row.parameters, row.multiply_adds, needed = count(network, size)
    earlier = [one for one in before if one.name == network.name and one.seconds]
    free = _free_bytes()
    if free is not None and needed > free:
        row.left_out = f"it needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        return None
    if earlier and earlier[-1].multiply_adds:
        expected = earlier[-1].seconds * row.multiply_adds / earlier[-1].multiply_adds
        if expected > settings.limit:
            row.left_out = f"a call would take about {expected:.0f} s, the limit is {settings.limit:g} s"
            return None
    row.layout = "" if network.is_ours else earlier[-1].layout if earlier else "channels_last"
    candidate = prepare(network, size, row.layout or "channels_last")
    images = _image(size, row.layout)
    logits, row.seconds = _timed(partial(candidate.logits, images))
    if row.seconds > settings.limit:
        row.left_out = f"a call took {row.seconds:.0f} s, the limit is {settings.limit:g} s"
        return None
    if network.is_ours:
        labels, row.seconds = _timed(partial(candidate.mask, images))
    else:  # the timed mask is made of these logits by this function
        labels = label_map(logits, (size.height, size.width))
    row.left_out = wrong(logits, labels, size)
    if row.left_out:
        return None
    if candidate.module is not None and not earlier:
        row.layout, row.seconds = _faster_layout(candidate.module, candidate.mask, size, row.seconds)
        images = _image(size, row.layout)
    if size.name in settings.alone and row.seconds < ALONE:
        timeout = PATIENCE * (1 + row.seconds)
        try:
            alone = fresh_process.measure(fresh_mask, network, size, row.layout, calls=2, timeout=timeout)
            row.peak_mib = alone.peak_mib
        except TimeoutError:
            settings.say(f"{size.name}: {network.name}: no peak memory within {timeout:.0f} s", False)
        except BrokenProcessPool:
            row.left_out = "the system ended its process, probably for want of memory"
            return None
    return partial(candidate.mask, images)


def _faster_layout(
    module: nn.Module, mask: Callable[[Tensor], Tensor], size: Size, seconds: float
) -> tuple[str, float]:
    """Leave a rival in the memory format in which it is faster here; return this and its seconds.

    Args:
        module: the rival, in channels_last.
        mask: its call.
        size: of the image.
        seconds: what a call has just taken.
    """
    taken = {"channels_last": seconds}
    for layout in ("contiguous", "channels_last"):
        module.to(memory_format=LAYOUTS[layout])
        if layout in taken and seconds > TURN:  # one call is enough to judge by
            continue
        call = partial(mask, _image(size, layout))
        taken[layout] = min(_timed(call)[1] for _ in range(1 if seconds > TURN else 3))
    best = min(taken, key=taken.__getitem__)
    module.to(memory_format=LAYOUTS[best])
    return best, taken[best]


def _in_turns(
    runs: dict[str, Callable[[], Tensor]], seconds: dict[str, float], size: Size, settings: Settings
) -> dict[str, list[float]]:
    """Return the seconds of each row in each round."""
    if not runs:
        return {}
    clock = Clock(torch.device("cpu"))
    calls = {name: max(1, min(MOST_CALLS, int(TURN / max(seconds[name], 1e-9)))) for name in runs}
    cost = {name: (calls[name] + (seconds[name] < NEEDS_WARM_UP)) * seconds[name] for name in runs}
    names = list(runs)

    def turn(name: str) -> float:
        if seconds[name] < NEEDS_WARM_UP:
            runs[name]()
        return clock.seconds(runs[name], calls[name])

    planned = max(MIN_ROUNDS, min(MAX_ROUNDS, int(settings.seconds / max(sum(cost.values()), 1e-9))))

    def before_turn(number: int, name: str) -> None:
        rest = names[names.index(name) :]
        left = sum(cost[one] for one in rest) + max(0, planned - number) * sum(cost.values())
        settings.say(f"{size.name}: round {number} of about {planned}, {name}; {left:.0f} s left", True)

    turns = {name: partial(turn, name) for name in runs}
    return interleaved(turns, settings.seconds, least=MIN_ROUNDS, most=MAX_ROUNDS, before_turn=before_turn)


def _timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def _free_bytes() -> int | None:
    """Return the memory that new programs may take; None where Linux's /proc is missing."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None


def progress(line: str, passing: bool) -> None:
    """Show a line on the error stream; a passing one replaces the one before if this is a terminal."""
    is_terminal = sys.stderr.isatty()
    start, end = ("\r\x1b[K" if is_terminal else ""), ("" if is_terminal and passing else "\n")
    print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
