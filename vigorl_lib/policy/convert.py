"""The policy's requests and answers to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.policy.base import Completion, FinishReason, Generation, PolicyInfo, Sampling
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
    )


def sampling_from_proto(proto: pb.Sampling) -> Sampling:
    """Raises DataError (REQUEST_INVALID) for settings that cannot be sampled with."""
    if not proto.temperature >= 0.0:
        raise convert.invalid("sampling.temperature", "a number of at least 0", proto.temperature)
    if not 0.0 < proto.top_p <= 1.0:
        raise convert.invalid("sampling.top_p", "a number above 0 and up to 1", proto.top_p)
    if proto.max_tokens < 1:
        raise convert.invalid("sampling.max_tokens", "at least 1", proto.max_tokens)
    return Sampling(proto.temperature, proto.top_p, proto.top_k, proto.max_tokens, tuple(proto.stop))


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
    )


def completion_to_proto(completion: Completion) -> pb.Completion:
    return pb.Completion(
        text=completion.text,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        finish_reason=FINISH_REASON.to_proto(completion.finish_reason),
        policy_version=completion.policy_version,
    )


def completion_from_proto(proto: pb.Completion) -> Completion:
    return Completion(
        text=proto.text,
        token_ids=tuple(proto.token_ids),
        logprobs=tuple(proto.logprobs),
        finish_reason=FINISH_REASON.from_proto(proto.finish_reason),
        policy_version=proto.policy_version,
    )


def generation_to_proto(asked: Sequence[Segment], generation: Generation) -> pb.GenerateResponse:
    """The answer to `asked`: tokens travel back only for segments that came without."""
    rendered = [
        pb.RenderedSegment(index=index, tokens=convert.tokens_to_proto(segment))
        for index, (before, segment) in enumerate(zip(asked, generation.prompt, strict=True))
        if before.token_ids is None and segment.token_ids is not None
    ]
    return pb.GenerateResponse(
        rendered=rendered,
        completions=[completion_to_proto(completion) for completion in generation.completions],
        policy=info_to_proto(generation.policy),
        cached_tokens=generation.cached_tokens,
        queue_duration=timedelta(seconds=generation.queue_seconds),
        engine_duration=timedelta(seconds=generation.engine_seconds),
    )


def generation_from_proto(asked: Sequence[Segment], proto: pb.GenerateResponse) -> Generation:
    prompt = list(asked)
    for rendered in proto.rendered:
        if rendered.index >= len(prompt):
            raise convert.invalid("rendered.index", f"less than {len(prompt)}", rendered.index)
        prompt[rendered.index] = with_tokens(prompt[rendered.index], rendered.tokens)
    return Generation(
        prompt=tuple(prompt),
        completions=tuple(completion_from_proto(completion) for completion in proto.completions),
        policy=info_from_proto(proto.policy),
        cached_tokens=proto.cached_tokens,
        queue_seconds=proto.queue_duration.ToTimedelta().total_seconds(),
        engine_seconds=proto.engine_duration.ToTimedelta().total_seconds(),
    )


def scored_to_proto(asked: Sequence[Segment], scored: Sequence[Segment], version: int) -> pb.ScoreResponse:
    segments = [
        pb.ScoredSegment(
            tokens=convert.tokens_to_proto(segment) if before.token_ids is None else None, logprobs=segment.logprobs
        )
        for before, segment in zip(asked, scored, strict=True)
    ]
    return pb.ScoreResponse(segments=segments, policy_version=version)


def scored_from_proto(asked: Sequence[Segment], proto: pb.ScoreResponse) -> tuple[Segment, ...]:
    scored = []
    for segment, answer in zip(asked, proto.segments, strict=True):
        known = with_tokens(segment, answer.tokens) if answer.HasField("tokens") else segment
        scored.append(replace(known, logprobs=tuple(answer.logprobs)))
    return tuple(scored)


def with_tokens(segment: Segment, tokens: conversation_pb2.Tokens) -> Segment:
    return segment.rendered(tuple(tokens.ids), convert.spans_from_proto(tokens, segment.images))
