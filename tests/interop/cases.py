"""The models that are exchanged with each peer."""

from __future__ import annotations

from typing import Any

from tests.interop.compare import Case

HEAD = "model.decode_head."
INPUT = "model.data_preprocessor."
# What no tensor shows, all of it other than in the published configurations.
OTHER_SETTINGS = {
    f"{HEAD}ham_kwargs.MD_R": 24,
    f"{HEAD}ham_kwargs.eval_steps": 4,
    f"{HEAD}align_corners": True,
    f"{INPUT}mean": [1.0, 2.0, 3.0],
    f"{INPUT}std": [4.0, 5.0, 6.0],
}
EXPECTED_SETTINGS = {"rank": 24, "eval_steps": 4, "align_corners": True, "decoder_align_corners": True}
ONE_LOGIT = {f"{HEAD}num_classes": 2, f"{HEAD}out_channels": 1, f"{HEAD}threshold": 0.4}
AUXILIARY = {
    "model.auxiliary_head": {
        "type": "FCNHead",
        "in_channels": 160,
        "in_index": 2,
        "channels": 32,
        "num_convs": 1,
        "num_classes": 150,
        "norm_cfg": {"type": "BN"},
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 0.4},
    }
}
PADDLE_RANKS = {"rank": 16}


def _openmmlab(environment: str, sizes: list[str]) -> list[Case]:
    def case(name: str, size: str, changes: dict[str, Any], fields: dict[str, Any]) -> Case:
        return Case(environment, name, size, changes, "mmsegmentation", fields)

    return [case("published", size, {}, {"rank": 16, "eval_steps": 7}) for size in sizes] + [
        case("other settings", "t", OTHER_SETTINGS, EXPECTED_SETTINGS),
        case("one logit", "t", ONE_LOGIT, {"num_classes": 2, "threshold": 0.4}),
        case("auxiliary head", "t", AUXILIARY, {}),
    ]


def cases(sizes: list[str]) -> list[Case]:
    """List the cases; the published configurations in these sizes, everything else in size T."""
    paddle = [Case("paddleseg", "published", size, {}, "paddleseg", PADDLE_RANKS) for size in sizes]
    jittor = [Case("jittor", "network written for the test", "t", {}, "official", {"rank": 16})]
    geti = [
        Case("geti", "published", size, {}, "", {"align_corners": True, "decoder_align_corners": False})
        for size in sizes
        if size != "l"
    ]
    return [*_openmmlab("mmsegmentation", sizes), *_openmmlab("onedl", sizes), *paddle, *jittor, *geti]
