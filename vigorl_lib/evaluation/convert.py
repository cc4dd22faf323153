"""Sample records and figures to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vigorl_lib.evaluation.metrics import SampleRecord, accuracy, summarize
from vigorl_lib.evaluation.run import EvaluationProgress
from vigorl_lib.rpc.gen.vigorl.evaluation.v1 import evaluation_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure over `samples` samples; `low` and `high` are its 95 % interval where it is a share."""

    name: str
    value: float
    samples: int
    low: float | None = None
    high: float | None = None


def progress_to_proto(progress: EvaluationProgress) -> pb.EvaluateResponse:
    sample = None if progress.record is None else _record_to_proto(progress.record)
    return pb.EvaluateResponse(
        done=progress.done, total=progress.total, failed=progress.failed, resumed=progress.resumed, sample=sample
    )


def progress_from_proto(proto: pb.EvaluateResponse) -> EvaluationProgress:
    record = _record_from_proto(proto.sample) if proto.HasField("sample") else None
    return EvaluationProgress(proto.done, proto.total, proto.failed, proto.resumed, record)


def metrics_to_proto(records: Sequence[SampleRecord]) -> pb.Metrics:
    """Accuracy with its Wilson interval, then all other figures that can be said of these records."""
    right, n = accuracy(records), len(records)
    others = {name: value for name, value in summarize(records).items() if name not in ("n", "accuracy")}
    metrics = [pb.Metric(name="accuracy", value=right.value, low=right.low, high=right.high, samples=n)]
    metrics += [pb.Metric(name=name, value=value, samples=n) for name, value in others.items() if not math.isnan(value)]
    return pb.Metrics(metrics=metrics)


def metrics_from_proto(proto: pb.Metrics) -> tuple[Metric, ...]:
    return tuple(
        Metric(
            metric.name,
            metric.value,
            metric.samples,
            metric.low if metric.HasField("low") else None,
            metric.high if metric.HasField("high") else None,
        )
        for metric in proto.metrics
    )


def _record_to_proto(record: SampleRecord) -> pb.SampleResult:
    return pb.SampleResult(
        example_id=record.example_id,
        correct=record.correct,
        outcome=record.outcome,
        stop=record.stop,
        answer=record.answer,
        turns=record.turns,
        zooms=record.zooms,
        reward=record.reward,
        invalid=record.invalid,
        tags=record.tags,
        point_error_px=record.point_error_px,
        hit=record.hit,
        sample=record.sample,
        image=record.image,
    )


def _record_from_proto(proto: pb.SampleResult) -> SampleRecord:
    return SampleRecord(
        example_id=proto.example_id,
        correct=proto.correct,
        outcome=proto.outcome,
        stop=proto.stop,
        answer=proto.answer if proto.HasField("answer") else None,
        turns=proto.turns,
        zooms=proto.zooms,
        reward=proto.reward,
        invalid=dict(proto.invalid),
        tags=dict(proto.tags),
        point_error_px=proto.point_error_px if proto.HasField("point_error_px") else None,
        hit=proto.hit if proto.HasField("hit") else None,
        sample=proto.sample,
        image=proto.image,
    )
