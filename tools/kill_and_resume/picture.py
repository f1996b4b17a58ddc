"""Draws the losses of two trainings over each other, and where one of them was killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.kill_and_resume.killing import Kill
from tools.kill_and_resume.losses import Step

# distinct for the colour-blind (Okabe and Ito)
WHOLE, KILLED, IN_A_STEP, IN_A_SAVE = "#8ecbf0", "#000000", "#d55e00", "#009e73"


def draw(
    path: Path, whole: Sequence[Step], sessions: Sequence[Sequence[Step]], kills: Sequence[Kill], equal: bool
) -> None:
    """Draw the curves: one thick and pale, the other thin and dark; a vertical line per kill.

    A band of a kill's colour goes back from it to the checkpoint: these steps were done again.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss of the step", xlim=(1, len(whole)))
    axes.set_title(
        f"A training that was killed {len(kills)} times and resumed, over one that was not: "
        f"{'the same losses, to the last bit' if equal else 'THEY DIFFER'}"
    )
    axes.plot(*_curve(whole), color=WHOLE, linewidth=8, label="never stopped", solid_capstyle="round")
    for number, steps in enumerate(sessions):
        label = "killed and resumed" if number == len(sessions) - 1 else None
        axes.plot(*_curve(steps), color=KILLED, linewidth=1.2, marker=".", markersize=4, label=label)
    said = set()
    for kill in kills:
        saving = kill.saving and kill.hit
        colour = IN_A_SAVE if saving else IN_A_STEP
        label = "killed while it saved" if saving else "killed at a random moment"
        at = kill.step + (0.0 if saving else 0.5)
        axes.axvline(at, color=colour, linewidth=1.6, label=None if label in said else label)
        axes.axvspan(kill.checkpoint, at, color=colour, alpha=0.12, linewidth=0)
        said.add(label)
    axes.grid(alpha=0.3)
    lines, labels = axes.get_legend_handles_labels()
    again = Patch(color="black", alpha=0.12)
    figure.legend(
        [*lines, again], [*labels, "steps done again"], loc="outside lower center", ncols=5, frameon=False
    )
    figure.savefig(path, dpi=120)


def _curve(steps: Sequence[Step]) -> tuple[list[int], list[float]]:
    return [step.number for step in steps], [step.loss for step in steps]
