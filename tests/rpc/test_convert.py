"""Every domain object survives the wire: to protobuf, to bytes, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.strategies import examples, images, points, sizes, texts, turn_records
from tests.rpc.strategies import segments, wire_trajectories
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Border, Crop, Point, ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import InvalidTurn, Message, Role, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.domain.wire import Spelling
from vigorl_lib.environment import convert as environment_convert
from vigorl_lib.environment.base import Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.errors import DataError
from vigorl_lib.policy import convert as policy_convert
from vigorl_lib.policy.base import Completion, FinishReason, Generation, PolicyInfo, Sampling, Scored
from vigorl_lib.reward import convert as reward_convert
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import FewShotExample, TaskConfig
from vigorl_lib.rpc import convert
from vigorl_lib.rpc.convert import image_by_digest, image_reference
from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2, geometry_pb2, turn_pb2
from vigorl_lib.rpc.images import received_image
from vigorl_lib.search import convert as search_convert
from vigorl_lib.search.config import SearchConfig

few = settings(max_examples=60, deadline=None)


def over_the_wire(proto: Any) -> Any:
    return type(proto).FromString(proto.SerializeToString())


@few
@given(segments())
def test_segment(segment: Segment) -> None:
    proto = over_the_wire(convert.segment_to_proto(segment, image_by_digest))
    assert convert.segment_from_proto(proto, image_reference) == segment


@few
@given(wire_trajectories())
def test_trajectory(trajectory: Trajectory) -> None:
    proto = over_the_wire(convert.trajectory_to_proto(trajectory, image_by_digest))
    assert convert.trajectory_from_proto(proto, image_reference) == trajectory


@few
@given(turn_records)
def test_turn_record(record: TurnRecord) -> None:
    proto = over_the_wire(convert.record_to_proto(record, image_by_digest))
    assert convert.record_from_proto(proto, image_reference) == record


@few
@given(examples())
def test_example(example: Example) -> None:
    proto = over_the_wire(convert.example_to_proto(example, image_by_digest))
    assert convert.example_from_proto(proto, image_reference) == example


@few
@given(points)
def test_point(point: Point) -> None:
    assert convert.point_from_proto(over_the_wire(convert.point_to_proto(point))) == point


zoom_configs = st.builds(
    ZoomConfig,
    window_model_px=st.integers(1, 4000),
    shown_px=st.integers(1, 4000),
    border=st.sampled_from(Border),
    source=st.sampled_from(["original", "model"]),
    dot=st.booleans(),
    max_turns=st.integers(1, 50),
    on_invalid=st.sampled_from(["tell", "ignore", "stop"]),
    max_invalid_turns=st.integers(0, 50),
    min_distance_px=st.floats(0, 1e6),
    strict=st.booleans(),
    window_share=st.floats(0, 1),
    observation=st.sampled_from(Spelling),
    max_zooms=st.integers(0, 50),
)
reward_configs = st.builds(
    RewardConfig,
    answer_weight=st.floats(0, 1e6),
    format_weight=st.floats(0, 1e6),
    distinct_bonus=st.floats(0, 1e6),
    distinct_radius_px=st.floats(0.001, 1e6),
    distinct_cap=st.integers(0, 50),
    distinct_when=st.sampled_from(["correct", "always", "never"]),
    require_point=st.booleans(),
    rule=st.sampled_from(["composed", "reference.web_action", "mine"]),
    evidence_weight=st.floats(0, 1e6),
)
task_configs = st.builds(
    TaskConfig,
    family=texts,
    mode=texts,
    prompt=texts,
    temperature=st.just(0.0) | st.floats(0.01, 2),
    top_p=st.floats(0.001, 1.0),
    top_k=st.integers(0, 1000),
    max_turn_tokens=st.integers(1, 10_000),
    max_tokens=st.integers(1, 10_000),
    observation_text_tokens=st.integers(0, 100),
    force_answer=st.booleans(),
    min_steps_from=st.integers(0, 3),
    min_steps_to=st.integers(3, 7),
    few_shot=st.lists(
        st.builds(
            FewShotExample,
            image=st.text("0123456789abcdef", min_size=64, max_size=64),
            question=texts.filter(bool),
            replies=st.lists(texts, min_size=1, max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    zoom=zoom_configs,
)
search_configs = st.builds(
    SearchConfig,
    kind=st.sampled_from(["tree", "paths"]),
    selection=st.sampled_from(["ucb", "puct", "puct_uniform"]),
    simulations_in_flight=st.integers(1, 10),
    stop_when_hopeless=st.integers(0, 10),
    min_path_turns=st.integers(0, 10),
    max_tree_tokens=st.integers(0, 10**6),
    deadline_s=st.floats(0, 10**6),
    simulations=st.integers(1, 100),
    children=st.integers(1, 100),
    exploration=st.floats(0, 100),
    dedup_radius_px=st.floats(0, 100),
    stop_when_solved=st.booleans(),
    trees_in_flight=st.integers(1, 1000),
    limit=st.integers(0, 1000),
)


@few
@given(zoom_configs)
def test_zoom_config(config: ZoomConfig) -> None:
    proto = over_the_wire(environment_convert.zoom_to_proto(config))
    assert environment_convert.zoom_from_proto(proto) == config


@few
@given(reward_configs)
def test_reward_config(config: RewardConfig) -> None:
    assert reward_convert.config_from_proto(over_the_wire(reward_convert.config_to_proto(config))) == config


@few
@given(task_configs)
def test_task_config(config: TaskConfig) -> None:
    assert search_convert.task_from_proto(over_the_wire(search_convert.task_to_proto(config))) == config


@few
@given(search_configs)
def test_search_config(config: SearchConfig) -> None:
    assert search_convert.search_from_proto(over_the_wire(search_convert.search_to_proto(config))) == config


@few
@given(
    st.builds(
        Sampling,
        temperature=st.just(0.0) | st.floats(0.01, 2),
        top_p=st.floats(0.001, 1.0),
        top_k=st.integers(0, 1000),
        max_tokens=st.integers(1, 10_000),
        stop=st.lists(texts.filter(bool), max_size=3).map(tuple),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.1, 10),
        frequency_penalty=st.floats(-2, 2),
        stop_token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple),
        top_logprobs=st.integers(0, 20),
    )
)
def test_sampling(sampling: Sampling) -> None:
    assert policy_convert.sampling_from_proto(over_the_wire(policy_convert.sampling_to_proto(sampling))) == sampling


@few
@given(
    st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.sampled_from(RewardOutcome),
    st.floats(-10, 10),
)
def test_score(parts: dict[str, float], outcome: RewardOutcome, total: float) -> None:
    score = Score(total, parts, outcome)
    assert reward_convert.result_from_proto(over_the_wire(reward_convert.result_to_proto(score))) == score


INFO = PolicyInfo("student", "transformers", "tiny", "r1", 3, True, True, False, 512, ResizeRule(28, 784, 12544))


@few
@given(st.lists(segments(), min_size=1, max_size=3), st.data())
def test_a_generation_returns_the_prompt_rendered_and_sends_only_what_was_missing(
    asked: list[Segment], data: st.DataObject
) -> None:
    rendered = tuple(segment if segment.token_ids is not None else segment.rendered((1, 2, 3), ()) for segment in asked)
    count = data.draw(st.integers(0, 3))
    completion = Completion("text", tuple(range(count)), (-0.5,) * count, FinishReason.STOP_STRING, 3)
    generation = Generation(rendered, (completion,), INFO, cached_tokens=7, queue_seconds=0.5, engine_seconds=0.25)
    proto = over_the_wire(policy_convert.generation_to_proto(asked, generation))
    assert len(proto.rendered) == sum(segment.token_ids is None for segment in asked)
    assert policy_convert.generation_from_proto(asked, proto) == generation


@few
@given(st.lists(segments(), min_size=1, max_size=3))
def test_scores_come_back_on_the_segments_that_were_sent(asked: list[Segment]) -> None:
    scored = policy_convert.scored_from_proto(
        asked, over_the_wire(policy_convert.scored_to_proto(asked, Scored(tuple(asked), INFO)))
    )
    assert scored.policy == INFO
    for before, after in zip(asked, scored.segments, strict=True):
        assert after.logprobs == before.logprobs
        assert after.messages == before.messages


@few
@given(turn_records, st.none() | st.sampled_from(StopReason), st.none() | st.sampled_from(InvalidTurn), sizes)
def test_outcome_and_its_observation_share_the_crop(
    record: TurnRecord, stop: StopReason | None, invalid: InvalidTurn | None, size: Any
) -> None:
    data = b"crop"
    crop_image = received_image(convert.image_inline(Image("", "image/jpeg", size, data)))
    observation = Message(Role.USER, ("before", crop_image, "after"))
    crop = record.crop or Crop(convert.box_from_proto(geometry_pb2.Box(frame=geometry_pb2.FRAME_ORIGINAL)), size)
    outcome = Outcome(b"state", record.turn, observation, stop, invalid, "detail", crop, crop_image)
    proto = over_the_wire(environment_convert.outcome_to_proto(outcome))
    back = environment_convert.outcome_from_proto(proto, received_image)
    assert back == outcome
    assert back.observation is not None
    assert back.observation.images[0].data == data, "the observation's image has its bytes, sent once"


@given(images)
def test_an_image_by_digest_keeps_type_and_size(image: Image) -> None:
    back = image_reference(over_the_wire(image_by_digest(image)))
    assert (back, back.media_type, back.size) == (image, image.media_type, image.size)


def test_values_that_mean_nothing_are_refused_by_field() -> None:
    with pytest.raises(DataError, match="frame"):
        convert.point_from_proto(geometry_pb2.Point(x=1, y=2))
    with pytest.raises(DataError, match="action"):
        convert.turn_from_proto(turn_pb2.Turn(thought="x"))
    with pytest.raises(DataError, match="image_spans"):
        convert.spans_from_proto(
            conversation_pb2.Tokens(ids=[1], image_spans=[conversation_pb2.ImageSpan(length=1)]), ()
        )
    bad = environment_convert.zoom_to_proto(ZoomConfig())
    bad.window_model_px = 0
    with pytest.raises(DataError, match="window_model_px"):
        environment_convert.zoom_from_proto(bad)
    with pytest.raises(DataError, match="resize"):
        convert.resize_from_proto(geometry_pb2.ResizeRule())
