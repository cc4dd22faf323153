"""The reward's settings and scores to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

from pydantic import ValidationError

from vigorl_lib.errors import VigorlError
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rpc import convert
from vigorl_lib.rpc.convert import EnumMap
from vigorl_lib.rpc.errors import item_error_from_proto, item_error_to_proto, unexpected
from vigorl_lib.rpc.gen.vigorl.reward.v1 import reward_service_pb2 as pb

OUTCOME = EnumMap(RewardOutcome, pb, "REWARD_OUTCOME")

_DISTINCT = {
    "correct": pb.DISTINCT_WHEN_CORRECT,
    "always": pb.DISTINCT_WHEN_ALWAYS,
    "never": pb.DISTINCT_WHEN_NEVER,
}
_DISTINCT_NAMES = {number: name for name, number in _DISTINCT.items()}


def config_to_proto(config: RewardConfig) -> pb.RewardConfig:
    return pb.RewardConfig(
        answer_weight=config.answer_weight,
        format_weight=config.format_weight,
        distinct_bonus=config.distinct_bonus,
        distinct_radius_px=config.distinct_radius_px,
        distinct_cap=config.distinct_cap,
        distinct_when=_DISTINCT[config.distinct_when],
        require_point=config.require_point,
        rule=config.rule,
        evidence_weight=config.evidence_weight,
    )


def config_from_proto(proto: pb.RewardConfig) -> RewardConfig:
    """Raises DataError (REQUEST_INVALID) for settings that `RewardConfig` refuses."""
    values = {
        "answer_weight": proto.answer_weight,
        "format_weight": proto.format_weight,
        "distinct_bonus": proto.distinct_bonus,
        "distinct_radius_px": proto.distinct_radius_px,
        "distinct_cap": proto.distinct_cap,
        "distinct_when": _DISTINCT_NAMES.get(proto.distinct_when),
        "require_point": proto.require_point,
        "rule": proto.rule,
        "evidence_weight": proto.evidence_weight,
    }
    try:
        return RewardConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise convert.invalid(f"config.{first['loc'][0]}", first["msg"], first.get("input")) from None


def result_to_proto(result: Score | Exception) -> pb.ScoreResult:
    if isinstance(result, Score):
        outcome = OUTCOME.to_proto(result.outcome)
        score = pb.Score(total=result.total, parts=result.parts, outcome=outcome, judged_by=result.judged_by)
        return pb.ScoreResult(score=score)
    known = result if isinstance(result, VigorlError) else unexpected(result)
    return pb.ScoreResult(error=item_error_to_proto(known))


def result_from_proto(proto: pb.ScoreResult) -> Score | Exception:
    if proto.WhichOneof("result") == "error":
        return item_error_from_proto(proto.error)
    score = proto.score
    return Score(score.total, dict(score.parts), OUTCOME.from_proto(score.outcome), score.judged_by)
