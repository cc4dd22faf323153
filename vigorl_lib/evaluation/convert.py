"""Sample records and figures to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vigorl_lib.evaluation.metrics import SampleRecord, accuracy, cut_off, not_parseable, of_several, summarize
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
    """The shares that have an interval, accuracy first, then all other figures that can be said of these records."""
    shares = {"accuracy": accuracy(records), "not_parseable": not_parseable(records), "cut_off": cut_off(records)}
    shares |= of_several(records)
    n = len(records)
    metrics = [
        pb.Metric(name=name, value=share.value, low=share.low, high=share.high, samples=n)
        for name, share in shares.items()
    ]
    metrics += [
        pb.Metric(name=name, value=value, samples=n)
        for name, value in summarize(records).items()
        if name != "n" and name not in shares and not math.isnan(value)
    ]
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
        judged_by=record.judged_by,
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
        judged_by=proto.judged_by,
    )
