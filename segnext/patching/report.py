"""What `segnext.patch` did to a model, part by part."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from segnext.one_line import one_line

SHOWN = 12  # names in a summary's line


@dataclass(frozen=True)
class Part:
    """One module.

    Attributes:
        path: its name in the model.
        kind: the name of its class.
        became: what computes it now; None if it was left alone.
        reason: why it was left alone; None if it was patched.
    """

    path: str
    kind: str
    became: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        done = self.became if self.reason is None else f"left alone: {self.reason}"
        return f"{self.path or 'the model'} ({self.kind}): {done}"


@dataclass(frozen=True)
class Agreement:
    """The largest relative differences between the model before and after, on the same input.

    Attributes:
        mode: "evaluation" or "training".
        output, gradient: of the results and of the gradients of all parameters; relative to a tensor's largest value,
            and to 5 % of the largest of all where that is more.
    """

    mode: str
    output: float
    gradient: float

    def __str__(self) -> str:
        return f"{self.mode}: outputs differ by {self.output:.1e}, gradients by {self.gradient:.1e}"


@dataclass(frozen=True)
class PatchReport:
    """What was patched, and what was left alone and why; `print` shows a summary.

    Attributes:
        parts: the modules that have a known structure, in the model's order.
        agreements: by ``verify``; one per mode.
        ours: whether the model has modules of segnext itself.
    """

    parts: tuple[Part, ...]
    agreements: tuple[Agreement, ...] = field(default=())
    ours: bool = False

    @property
    def patched(self) -> tuple[Part, ...]:
        """The modules that the kernels compute."""
        return tuple(part for part in self.parts if part.became is not None)

    @property
    def left(self) -> tuple[Part, ...]:
        """The modules that were left alone, with reasons."""
        return tuple(part for part in self.parts if part.reason is not None)

    def __str__(self) -> str:
        if not self.parts and self.ours:
            return "nothing to patch: segnext's own models use the kernels already"
        if not self.parts:
            return "nothing to patch: no module has the structure of MSCA, LKA, LSK, a convolutional FFN or an NMF"
        counts = Counter(f"{part.kind}: {part.became}" for part in self.patched)
        lines = [f"{len(self.patched)} modules patched, {len(self.left)} left alone"]
        lines += [f"  {count:4} x {what}" for what, count in counts.items()]
        reasons: dict[str, list[str]] = {}
        for part in self.left:
            reasons.setdefault(f"{part.kind}: {part.reason}", []).append(part.path)
        for what, paths in reasons.items():
            more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            lines.append(f"  left: {one_line(', '.join(paths[:SHOWN]), 200)}{more} ({what})")
        return "\n".join([*lines, *(f"  {agreement}" for agreement in self.agreements)])
