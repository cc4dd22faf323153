"""The policy's requests and answers to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import DataError
from vigorl_lib.policy.base import (
    Completion,
    FinishReason,
    Generation,
    PolicyInfo,
    Sampling,
    Scored,
    StreamDelta,
    StreamEnd,
    StreamEvent,
    StreamStart,
    TensorSpec,
    TopLogprobs,
    WeightTransfer,
)
from vigorl_lib.rpc import convert
from vigorl_lib.rpc.convert import EnumMap
from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2 as pb

FINISH_REASON = EnumMap(FinishReason, pb, "FINISH_REASON")

MAX_SEEDS = 256


def sampling_to_proto(sampling: Sampling) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        stop=sampling.stop,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        frequency_penalty=sampling.frequency_penalty,
        stop_token_ids=sampling.stop_token_ids,
        top_logprobs=sampling.top_logprobs,
    )


def sampling_from_proto(proto: pb.Sampling) -> Sampling:
    """Fields that are unset mean what `Sampling` means by default, except `stop`: none is none.

    Raises DataError (REQUEST_INVALID) for settings that cannot be sampled with.
    """
    default = Sampling()
    sampling = Sampling(
        temperature=proto.temperature if proto.HasField("temperature") else default.temperature,
        top_p=proto.top_p if proto.HasField("top_p") else default.top_p,
        top_k=proto.top_k,
        max_tokens=proto.max_tokens if proto.HasField("max_tokens") else default.max_tokens,
        stop=tuple(proto.stop),
        min_p=proto.min_p,
        repetition_penalty=proto.repetition_penalty if proto.HasField("repetition_penalty") else 1.0,
        frequency_penalty=proto.frequency_penalty,
        stop_token_ids=tuple(proto.stop_token_ids),
        top_logprobs=proto.top_logprobs,
    )
    if problem := sampling.problem():
        raise DataError(problem, reason="REQUEST_INVALID", field=problem.partition(":")[0])
    return sampling


def info_to_proto(info: PolicyInfo) -> pb.Policy:
    return pb.Policy(
        name=info.name,
        engine=info.engine,
        model=info.model,
        revision=info.revision,
        version=info.version,
        trainable=info.trainable,
        token_exact=info.token_exact,
        scripted=info.scripted,
        max_context_tokens=info.max_context_tokens,
        resize=convert.resize_to_proto(info.resize),
        family=info.family,
        point_frame=convert.FRAME.to_proto(info.point_frame),
        max_samples=info.max_samples,
        max_images=info.max_images,
    )


def info_from_proto(proto: pb.Policy) -> PolicyInfo:
    return PolicyInfo(
        name=proto.name,
        engine=proto.engine,
        model=proto.model,
        revision=proto.revision,
        version=proto.version,
        trainable=proto.trainable,
        token_exact=proto.token_exact,
        scripted=proto.scripted,
        max_context_tokens=proto.max_context_tokens,
        resize=convert.resize_from_proto(proto.resize),
        family=proto.family,
        point_frame=convert.FRAME.from_proto(proto.point_frame),
        max_samples=proto.max_samples,
        max_images=proto.max_images,
    )


def completion_to_proto(completion: Completion) -> pb.Completion:
    return pb.Completion(
        text=completion.text,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        finish_reason=FINISH_REASON.to_proto(completion.finish_reason),
        policy_version=completion.policy_version,
        top_logprobs=[_top_to_proto(top) for top in completion.top_logprobs],
    )


def completion_from_proto(proto: pb.Completion) -> Completion:
    return Completion(
        text=proto.text,
        token_ids=tuple(proto.token_ids),
        logprobs=tuple(proto.logprobs),
        finish_reason=FINISH_REASON.from_proto(proto.finish_reason),
        policy_version=proto.policy_version,
        top_logprobs=tuple(tuple(zip(top.token_ids, top.logprobs, strict=True)) for top in proto.top_logprobs),
    )


def _top_to_proto(top: TopLogprobs) -> pb.TopLogprobs:
    return pb.TopLogprobs(token_ids=[token for token, _ in top], logprobs=[logprob for _, logprob in top])


def _rendered_to_proto(asked: Sequence[Segment], rendered: Sequence[Segment]) -> list[pb.RenderedSegment]:
    """Tokens travel back only for segments that came without."""
    return [
        pb.RenderedSegment(index=index, tokens=convert.tokens_to_proto(segment))
        for index, (before, segment) in enumerate(zip(asked, rendered, strict=True))
        if before.token_ids is None and segment.token_ids is not None
    ]


def _rendered_from_proto(asked: Sequence[Segment], protos: Iterable[pb.RenderedSegment]) -> tuple[Segment, ...]:
    prompt = list(asked)
    for rendered in protos:
        if rendered.index >= len(prompt):
            raise convert.invalid("rendered.index", f"less than {len(prompt)}", rendered.index)
        prompt[rendered.index] = with_tokens(prompt[rendered.index], rendered.tokens)
    return tuple(prompt)


def generation_to_proto(asked: Sequence[Segment], generation: Generation) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        rendered=_rendered_to_proto(asked, generation.prompt),
        completions=[completion_to_proto(completion) for completion in generation.completions],
        policy=info_to_proto(generation.policy),
        cached_tokens=generation.cached_tokens,
        queue_duration=timedelta(seconds=generation.queue_seconds),
        engine_duration=timedelta(seconds=generation.engine_seconds),
    )


def generation_from_proto(asked: Sequence[Segment], proto: pb.GenerateResponse) -> Generation:
    return Generation(
        prompt=_rendered_from_proto(asked, proto.rendered),
        completions=tuple(completion_from_proto(completion) for completion in proto.completions),
        policy=info_from_proto(proto.policy),
        cached_tokens=proto.cached_tokens,
        queue_seconds=proto.queue_duration.ToTimedelta().total_seconds(),
        engine_seconds=proto.engine_duration.ToTimedelta().total_seconds(),
    )


def scored_to_proto(asked: Sequence[Segment], scored: Scored) -> pb.ScoreResponse:
    segments = [
        pb.ScoredSegment(
            tokens=convert.tokens_to_proto(segment) if before.token_ids is None else None, logprobs=segment.logprobs
        )
        for before, segment in zip(asked, scored.segments, strict=True)
    ]
    return pb.ScoreResponse(segments=segments, policy=info_to_proto(scored.policy))


def scored_from_proto(asked: Sequence[Segment], proto: pb.ScoreResponse) -> Scored:
    segments = []
    for segment, answer in zip(asked, proto.segments, strict=True):
        known = with_tokens(segment, answer.tokens) if answer.HasField("tokens") else segment
        segments.append(replace(known, logprobs=tuple(answer.logprobs)))
    return Scored(tuple(segments), info_from_proto(proto.policy))


def event_to_proto(asked: Sequence[Segment], event: StreamEvent) -> pb.StreamGenerateResponse:
    match event:
        case StreamStart():
            rendered = _rendered_to_proto(asked, event.prompt)
            start = pb.StreamStart(rendered=rendered, policy=info_to_proto(event.policy))
            return pb.StreamGenerateResponse(start=start)
        case StreamDelta():
            delta = pb.StreamDelta(text=event.text, token_ids=event.token_ids, logprobs=event.logprobs)
            return pb.StreamGenerateResponse(delta=delta)
        case StreamEnd():
            end = pb.StreamEnd(
                completion=completion_to_proto(event.completion),
                cached_tokens=event.cached_tokens,
                queue_duration=timedelta(seconds=event.queue_seconds),
                engine_duration=timedelta(seconds=event.engine_seconds),
            )
            return pb.StreamGenerateResponse(end=end)


def event_from_proto(asked: Sequence[Segment], proto: pb.StreamGenerateResponse) -> StreamEvent:
    match proto.WhichOneof("event"):
        case "start":
            return StreamStart(_rendered_from_proto(asked, proto.start.rendered), info_from_proto(proto.start.policy))
        case "delta":
            return StreamDelta(proto.delta.text, tuple(proto.delta.token_ids), tuple(proto.delta.logprobs))
        case "end":
            return StreamEnd(
                completion_from_proto(proto.end.completion),
                proto.end.cached_tokens,
                proto.end.queue_duration.ToTimedelta().total_seconds(),
                proto.end.engine_duration.ToTimedelta().total_seconds(),
            )
    raise convert.invalid("event", "a start, a delta or an end", "nothing")


def transfer_to_proto(transfer: WeightTransfer) -> pb.WeightTransfer:
    return pb.WeightTransfer(
        backend=transfer.backend,
        address=transfer.address,
        port=transfer.port,
        tensors=[pb.TensorSpec(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in transfer.tensors],
        timeout=timedelta(seconds=transfer.timeout_s),
        nccl_unique_id=transfer.nccl_unique_id,
    )


def transfer_from_proto(proto: pb.WeightTransfer) -> WeightTransfer:
    return WeightTransfer(
        backend=proto.backend,
        address=proto.address,
        port=proto.port,
        tensors=tuple(TensorSpec(spec.name, spec.dtype, tuple(spec.shape)) for spec in proto.tensors),
        timeout_s=proto.timeout.ToTimedelta().total_seconds(),
        nccl_unique_id=proto.nccl_unique_id,
    )


def with_tokens(segment: Segment, tokens: conversation_pb2.Tokens) -> Segment:
    return segment.rendered(tuple(tokens.ids), convert.spans_from_proto(tokens, segment.images))
