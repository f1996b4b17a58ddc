"""Reads and writes the configuration that checkpoints carry beside their tensors: what no tensor shows.

mmengine keeps it as Python text in ``meta["cfg"]``, mmcv in ``meta["config"]``, JSeg as a dictionary there, and Geti
as ``hyper_parameters``. The text is parsed, never executed: a value that is not a plain literal counts as unknown.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from segnext.models.config import DECODERS, GROUPS, STAGES, SegNeXtConfig
from segnext.one_line import shown

# The peers' code takes these values where a configuration is silent.
DEFAULT_RANK = 64
HAM_TYPES = {"NM": "ham", "VQ": "vq", "CD": "cd"}  # by their first letters: NMF, NMF2D, VQ2D
DEFAULT_STEPS = 7
DEFAULT_THRESHOLD = 0.3
# Real configurations have about 10,000 letters. The parser's memory grows with the text.
LONGEST_TEXT = 1_000_000
# Entries of one dictionary that may be unpacked into another: each such line copies them.
MOST_UNPACKED = 200
TRAINED_STEPS = 6


class _Unknown:
    """Stands for a value that only running the text would tell."""

    def __repr__(self) -> str:
        return "an expression"


UNKNOWN = _Unknown()
_UNPACKED = object()
"""Stands for the key of a dictionary that is unpacked into another."""


@dataclass
class Settings:
    """What a file's configuration says about its network and its input.

    Attributes:
        source: where the file keeps it, for example ``meta.cfg``; "" if the file has none.
        model: fields of a ``SegNeXtConfig``.
        preprocessing: ``mean`` and ``std`` in the order of the first convolution's channels, 0..255 scale; one
            number is for all channels.
        bgr: the run fed its images with blue first.
        classes: names of the classes.
        refusals: one text for each setting that segnext cannot compute; those of the encoder begin with ``backbone``.
        notes: what could not be read.
    """

    source: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, list[float]] = field(default_factory=dict)
    bgr: bool = False
    classes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse_unless(self, valid: bool, name: str, expected: str, value: Any) -> None:
        """Add a refusal unless the value is one that segnext computes, or a note if nobody knows it."""
        if value is UNKNOWN:
            self.note_unknown(name, expected)
        elif not valid:
            self.refusals.append(f"{name} must be {expected}, got {shown(value)}")

    def note_unknown(self, name: str, taken: Any) -> None:
        """Say that the text holds an expression, and what is taken in its place."""
        self.notes.append(
            f"{name} in {self.source} is an expression, which is not executed; taken as {taken}"
        )

    def mapping(self, holder: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
        """Return the dictionary that ``holder`` keeps under a name; None, with a note, if something else is there."""
        value = holder.get(name)
        if value is not None and not isinstance(value, Mapping):
            kind = "an expression" if value is UNKNOWN else f"a {type(value).__name__}"
            self.notes.append(f"{name} in {self.source} is {kind}, so that nothing is read from it")
        return value if isinstance(value, Mapping) else None

    def switch(self, name: str, value: Any, default: bool) -> bool:
        """Return what Python takes a value as, where it decides; the default, with a note, for anything else."""
        if isinstance(value, bool | int | float | type(None)):
            return bool(value)
        if value is UNKNOWN:
            self.note_unknown(name, default)
        else:
            self.notes.append(f"{name} in {self.source} is {shown(value)}, neither True nor False")
        return default


def read_settings(checkpoint: Mapping[str, Any]) -> Settings:
    """Read the settings from the object of a checkpoint file, which holds ``meta`` or ``hyper_parameters``."""
    meta = checkpoint.get("meta")
    places = {
        f"{prefix}{key}": holder[key]
        for prefix, holder in (("meta.", meta if isinstance(meta, Mapping) else {}), ("", checkpoint))
        for key in ("cfg", "config")
        if key in holder
    }
    settings = Settings()
    for source, value in places.items():
        config, problem = _configuration(value)
        if problem:
            settings.notes.append(f"{source} cannot be read: {problem}")
            continue
        if read_configuration(config, source, settings):
            break
    _read_geti(checkpoint.get("hyper_parameters"), settings)
    return settings


def read_configuration(config: Mapping[str, Any], source: str, settings: Settings) -> bool:
    """Read a configuration in mmsegmentation's terms into ``settings``; return whether it sets a model."""
    settings.source = source
    model = settings.mapping(config, "model")
    if model is None:
        settings.source = ""
        return False
    if "_base_" in config:
        settings.notes.append(f"{source} has _base_: what it takes from other files is not known")
    _read_model(model, settings)
    _read_input(config, settings)
    return True


def parse(text: str) -> dict[str, Any]:
    """Read the assignments at the top level of Python text; nothing is executed.

    Names that other statements set or change are `UNKNOWN`.

    Raises:
        ValueError: too long, or not Python.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"its {len(text):,} letters are more than {LONGEST_TEXT:,}")
    values: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parser, about code that nobody runs
            tree = ast.parse(text)
        for statement in tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                value = _literal(statement.value, values)
                values |= {target.id: value for target in targets if isinstance(target, ast.Name)}
                if all(isinstance(target, ast.Name) for target in targets):
                    continue
            values |= dict.fromkeys(_changed_names(statement), UNKNOWN)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = str(getattr(error, "msg", error)).splitlines() or [type(error).__name__]
        raise ValueError(f"it is not Python text ({reason[0][:80]})") from None
    return values


def _changed_names(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement may set or change, as ``model["a"] = 1`` and ``model.update()`` do."""
    for node in ast.walk(statement):
        holder = node.value if isinstance(node, ast.Attribute | ast.Subscript) else node
        if isinstance(holder, ast.Name) and (holder is not node or isinstance(holder.ctx, ast.Store)):
            yield holder.id


def _literal(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the value of a literal, of ``dict(...)`` with names, or of a name that was assigned before."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item, names) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_UNPACKED if key is None else _literal(key, names) for key in node.keys]
        return _dictionary(keys, [_literal(value, names) for value in node.values])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        given = [_UNPACKED] * len(node.args) + [word.arg or _UNPACKED for word in node.keywords]
        items = [*node.args, *(word.value for word in node.keywords)]
        return _dictionary(given, [_literal(item, names) for item in items])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, names)
        return -value if _is_number(value) else UNKNOWN
    return names.get(node.id, UNKNOWN) if isinstance(node, ast.Name) else UNKNOWN


def _dictionary(keys: list[Any], values: list[Any]) -> Any:
    """Return a dictionary of text to values; unknown if what is to be unpacked into it is no dictionary."""
    made: dict[str, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if isinstance(key, str):
            made[key] = value
        elif key is _UNPACKED:
            if not isinstance(value, dict) or len(value) > MOST_UNPACKED:
                return UNKNOWN
            made |= value
    return made


def _configuration(value: Any) -> tuple[Mapping[str, Any], str]:
    if isinstance(value, Mapping):
        return value, ""
    if not isinstance(value, str):
        return {}, f"it is a {type(value).__name__}"
    try:
        config = parse(value)
    except ValueError as error:
        return {}, str(error)
    return config, "" if "model" in config else "it sets no model"


def _read_model(model: Mapping[str, Any], settings: Settings) -> None:
    backbone, head = settings.mapping(model, "backbone"), settings.mapping(model, "decode_head")
    if backbone is not None:
        _read_normalisation(backbone, "backbone", settings)
        activation = _kind(backbone, "act_cfg", "GELU")
        settings.refuse_unless(activation == "GELU", "backbone.act_cfg.type", "GELU", activation)
        form = _mapping(backbone.get("act_cfg")).get("approximate", "none")
        settings.refuse_unless(form == "none", "backbone.act_cfg.approximate", "none", form)
    if head is None:
        return
    _read_normalisation(head, "decode_head", settings)
    activation = _kind(head, "act_cfg", "ReLU")
    settings.refuse_unless(activation == "ReLU", "decode_head.act_cfg.type", "ReLU", activation)
    _read_stages(head, settings)
    inner, outer = head.get("ham_channels"), head.get("channels")
    if _is_number(inner) and _is_number(outer):
        settings.refuse_unless(
            inner == outer, "decode_head.ham_channels", f"{outer} as decode_head.channels", inner
        )
    _read_hamburger(head, settings)
    corners = settings.switch("align_corners", head.get("align_corners", False), False)
    settings.model |= {"align_corners": corners, "decoder_align_corners": corners}  # features and logits
    _read_classes(head, settings)


def _read_stages(head: Mapping[str, Any], settings: Settings) -> None:
    """Read the stages whose features the head takes."""
    indices = head.get("in_index", [1, 2, 3])
    given = list(indices) if isinstance(indices, Sequence) and not isinstance(indices, str) else []
    known = all(type(index) is int and 0 <= index < STAGES for index in given)
    rising = bool(given) and known and given == sorted(set(given))
    settings.refuse_unless(
        rising, "decode_head.in_index", "a list of stages from 0 to 3 in rising order", indices
    )
    if rising and tuple(given) != DECODERS["ham"]:
        settings.model["in_indices"] = tuple(given)


def _read_normalisation(part: Mapping[str, Any], name: str, settings: Settings) -> None:
    norm = settings.mapping(part, "norm_cfg") or {}
    eps, groups = norm.get("eps", 1e-5), norm.get("num_groups", GROUPS)
    settings.refuse_unless(eps == 1e-5, f"{name}.norm_cfg.eps", "1e-5", eps)
    settings.refuse_unless(groups == GROUPS, f"{name}.norm_cfg.num_groups", str(GROUPS), groups)


def _read_hamburger(head: Mapping[str, Any], settings: Settings) -> None:
    """Read the factorisation's settings; the official code writes them in capitals, mmsegmentation does not."""
    given = settings.mapping(head, "ham_kwargs")
    if given is None and head.get("ham_kwargs") is not None:
        return
    ham = {str(key).lower(): value for key, value in (given or {}).items()}
    for name, computed in (("md_s", 1), ("spatial", True)):
        value = ham.get(name, computed)
        settings.refuse_unless(value == computed, f"decode_head.ham_kwargs.{name}", str(computed), value)
    kind = ham.get("ham_type", ham.get("type", "NMF"))
    context = HAM_TYPES.get(kind.upper()[:2]) if isinstance(kind, str) else None
    settings.refuse_unless(context is not None, "decode_head.ham_kwargs.ham_type", "one of NMF, VQ, CD", kind)
    if context is not None and context != SegNeXtConfig.context:
        settings.model["context"] = context
    for name, target, default in (
        ("md_r", "rank", DEFAULT_RANK),
        ("eval_steps", "eval_steps", DEFAULT_STEPS),
    ):
        value = ham.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            settings.model[target] = value
        else:
            what = "an expression" if value is UNKNOWN else shown(value)
            settings.notes.append(f"{name} in {settings.source} is {what}, not a number")
    steps = ham.get("train_steps", TRAINED_STEPS)
    if steps != TRAINED_STEPS:
        settings.notes.append(
            f"it was trained with {shown(steps)} NMF steps; segnext trains with {TRAINED_STEPS}"
        )


def _read_classes(head: Mapping[str, Any], settings: Settings) -> None:
    """Read the number of classes, and the threshold of a head with one logit."""
    classes, logits = head.get("num_classes"), head.get("out_channels")
    if _is_number(classes):
        settings.model["num_classes"] = classes
    if logits == 1 or (logits is None and classes == 1):
        threshold = head.get("threshold")
        settings.model["num_classes"] = 2
        if threshold is UNKNOWN:
            settings.note_unknown("threshold", DEFAULT_THRESHOLD)
        settings.model["threshold"] = float(threshold) if _is_number(threshold) else DEFAULT_THRESHOLD


def _read_input(config: Mapping[str, Any], settings: Settings) -> None:
    """Read mean, std and the order of colours from mmengine's data preprocessor, or from a step named Normalize.

    Both load images with blue first. The preprocessor keeps that order unless it is told to turn it, the step turns it.
    """
    processor = config["model"].get("data_preprocessor", config.get("data_preprocessor"))
    given = settings.mapping({"data_preprocessor": processor}, "data_preprocessor") or {}
    turned = any(settings.switch(name, given.get(name), False) for name in ("bgr_to_rgb", "rgb_to_bgr"))
    step = None if given.get("mean") is not None else _normalisation(config)
    if step is not None:
        _set_input(step, settings.switch("to_rgb", step.get("to_rgb", True), True) != turned, settings)
    elif given:
        _set_input(given, turned, settings)


def _normalisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find the normalisation of the test, else of the training, else the one at the top of mmcv's configurations."""
    data = config.get("data")
    tested = (data.get("test") if isinstance(data, Mapping) else None, config.get("test_dataloader"))
    trained = (config.get("dataset"), config.get("train_pipeline"), data)
    for place in (*tested, config.get("test_pipeline"), *trained):
        for step in _dictionaries(place):
            if _last_name(step.get("type")) == "Normalize" and "mean" in step:
                return step
    first = config.get("img_norm_cfg")
    return first if isinstance(first, Mapping) else None


def _set_input(given: Mapping[str, Any], rgb: bool, settings: Settings) -> None:
    mean, std = given.get("mean"), given.get("std")
    settings.bgr = not rgb
    if mean is None and std is None:  # mmengine then takes the pixels as they are
        mean, std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    if _are_numbers(mean) and _are_numbers(std) and len(mean) == len(std):
        settings.preprocessing = {"mean": [float(v) for v in mean], "std": [float(v) for v in std]}
    else:
        settings.notes.append(f"mean and std in {settings.source} are not lists of numbers")


def _read_geti(parameters: Any, settings: Settings) -> None:
    """Read Geti's class names, mean and std. Its newer versions write dictionaries, older ones objects."""
    if not isinstance(parameters, Mapping):
        return
    labels = _mapping(parameters.get("label_info"))
    names = labels.get("label_names")
    if isinstance(names, list | tuple):
        settings.classes = list(names)
    data = _mapping(parameters.get("data_input_params"))
    mean, std = data.get("mean"), data.get("std")
    if _are_numbers(mean) and _are_numbers(std) and len(mean) == len(std):
        is_scaled = max(*std, *map(abs, mean)) <= 1  # some of its recipes scale pixels to 0..1 first
        scale = 255.0 if is_scaled else 1.0
        settings.preprocessing = {"mean": [v * scale for v in mean], "std": [v * scale for v in std]}
        settings.source = settings.source or "hyper_parameters"


def _mapping(value: Any) -> Mapping[str, Any]:
    value = getattr(value, "state", value)
    return value if isinstance(value, Mapping) else {}


def _dictionaries(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every dictionary in a nested structure once, also where names refer to one structure many times."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if id(item) in seen or not isinstance(item, Mapping | list | tuple):
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            yield item
        todo.extend(reversed(list(item.values() if isinstance(item, Mapping) else item)))


def _kind(part: Mapping[str, Any], key: str, default: str) -> Any:
    """Return the type in ``part[key]``, without its module."""
    given = part.get(key, {})
    return _last_name(given.get("type", default) if isinstance(given, Mapping) else given)


def _last_name(kind: Any) -> Any:
    """Return the class in a type such as ``torch.nn.GELU``, as mmengine's lazy configurations write it."""
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> TypeGuard[Sequence[float]]:
    return isinstance(value, list | tuple) and bool(value) and all(_is_number(item) for item in value)
