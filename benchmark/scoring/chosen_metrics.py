"""Which metrics score under a protocol, and whether it has what each of them needs. No torch here.

chosen_metrics(load_protocol("paper"))["clip_t"].needs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from benchmark.api import GALLERY, PIXELS, REFERENCES, TEXTS, Metric, UserError
from benchmark.config import registry
from benchmark.config.protocol import MetricChoice, Protocol
from benchmark.scoring.kinds import ABILITIES, ANSWERS, DISTANCES, EMBEDDINGS, kind_of
from benchmark.store.records import MetricRecord


def chosen_metrics(protocol: Protocol, more: Sequence[str] = ()) -> dict[str, Metric]:
    """The protocol's metrics and those called `more`, by name in alphabetical order.

    Each looks through the encoder that the protocol chose for it. Raises UserError if one is
    unknown, needs what the protocol does not have, or has the label of another.
    """
    chosen: dict[str, Metric] = {}
    for name in sorted({*protocol.metrics, *more}):
        chosen[name] = _metric(name, protocol.metrics.get(name, MetricChoice()))
        for need in sorted(chosen[name].needs):
            _check_need(name, need, protocol)
    _check_labels(protocol, chosen)
    return chosen


def record_of(name: str, metric: Metric, protocol: Protocol) -> MetricRecord:
    """`metric` as it is declared under `protocol`, for those who read its scores."""
    choice = protocol.metrics.get(name, MetricChoice())
    return MetricRecord(
        version=metric.version,
        label=_label(name, metric, protocol),
        about=metric.about,
        higher_is_better=metric.higher_is_better,
        encoders=encoders_of(metric),
        factor=choice.factor,
        minimum=choice.minimum,
        metric=choice.metric or name,
    )


def encoders_of(metric: Metric) -> tuple[str, ...]:
    """The encoders that `metric` looks through, sorted."""
    return tuple(
        sorted(
            {
                need.partition(":")[0]
                for need in metric.needs
                if need not in (PIXELS, TEXTS, REFERENCES)
            }
        )
    )


def asks_judge(metric: Metric) -> bool:
    """Whether `metric` asks a judge."""
    return any(need.endswith(f":{ANSWERS}") for need in metric.needs)


def _metric(name: str, choice: MetricChoice) -> Metric:
    plugin = choice.metric or name
    metric: Any = registry.load_metric(plugin)
    if choice.encoder is None:
        return metric
    if not is_dataclass(metric) or "encoder" not in {field.name for field in fields(metric)}:
        raise UserError(
            f"metrics.{name}.encoder is '{choice.encoder}', but metric '{plugin}' has no field of "
            "that name: leave it out"
        )
    looking: Any = replace(metric, encoder=choice.encoder)  # type: ignore[type-var]
    return looking


def _check_need(name: str, need: str, protocol: Protocol) -> None:
    if need in (PIXELS, TEXTS, REFERENCES):
        return
    encoder, _, ability = need.partition(":")
    if encoder not in protocol.encoders:
        raise UserError(
            f"metric '{name}' needs an encoder '{encoder}', and protocol '{protocol.label}' has "
            f"{', '.join(protocol.encoders) or 'none'}: write a table [encoders.{encoder}], or "
            f"name another by `encoder` in [metrics.{name}]"
        )
    ability = ability or EMBEDDINGS
    if ability not in (*ABILITIES, GALLERY):
        known = ", ".join((*ABILITIES, GALLERY))
        raise UserError(f"metric '{name}' needs '{need}'; of an encoder it can have {known}")
    table = protocol.encoders[encoder]
    if ability == GALLERY:
        ability = EMBEDDINGS
    if ability not in kind_of(encoder, table).can:
        raise UserError(
            f"metric '{name}' needs {ability} of encoder '{encoder}', which an encoder of kind "
            f"'{table['kind']}' does not have: choose another encoder in [metrics.{name}]"
        )
    if ability == ANSWERS and "view" in table:
        raise UserError(
            f"encoders.{encoder}.view is '{table['view']}', and a judge is shown whole images: "
            "leave it out"
        )
    if ability == DISTANCES and "view" in table:
        raise UserError(
            f"metric '{name}' compares images with each other through encoder '{encoder}', which "
            f"sees view '{table['view']}': in some, no subject is found; choose an encoder without "
            f"a view in [metrics.{name}]"
        )


def _check_labels(protocol: Protocol, chosen: dict[str, Metric]) -> None:
    first: dict[str, str] = {}
    for name, metric in chosen.items():
        label = _label(name, metric, protocol)
        other = first.setdefault(label, name)
        if other != name:
            raise UserError(
                f"protocol '{protocol.label}': metrics '{other}' and '{name}' would both be called "
                f"'{label}' in tables: set `label` in [metrics.{name}]"
            )


def _label(name: str, metric: Metric, protocol: Protocol) -> str:
    return protocol.metrics.get(name, MetricChoice()).label or metric.label
