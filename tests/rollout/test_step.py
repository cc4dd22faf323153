from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.rollout.support import CROP_TOKENS, TASK, ZOOM, WordPolicy, answer, question, said, stepping, zoom
from vigorl_lib.domain.grammar import Answer
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Origin, Role, Segment, StopReason, flat_token_ids, trained_mask
from vigorl_lib.domain.wire import FORCED_ANSWER_PREFIX
from vigorl_lib.errors import ConfigError, EpisodeError, PolicyError
from vigorl_lib.policy.base import FinishReason
from vigorl_lib.rollout.step import StepError


def looking(prompt: Sequence[Segment], index: int) -> str:
    return zoom(20 + 20 * index, 30)


async def test_a_step_gives_successors_in_the_order_of_their_seeds() -> None:
    policy = WordPolicy(looking)
    stepper = stepping(policy)
    root = await stepper.start(question(), (3, "search", "one"))
    successors = await stepper.step(root, 3)
    (call,) = policy.calls
    assert call.seeds == tuple(derive_seed(3, "search", "one", k) for k in range(3))
    assert len(set(call.seeds)) == 3
    assert call.request_id == "3/search/one"
    assert [child.seed_path for child in successors] == [(3, "search", "one", k) for k in range(3)]
    assert [child.record.turn.cited[-1].x for child in successors if child.record] == [20, 40, 60]
    assert {child.depth for child in successors} == {1}


async def test_successors_share_a_parent_that_was_rendered_once() -> None:
    policy = WordPolicy(looking)
    stepper = stepping(policy)
    root = await stepper.start(question(), (0,))
    assert root.segments[0].token_ids is None
    successors = await stepper.step(root, 3)
    parents = {id(child.parent) for child in successors}
    assert len(parents) == 1
    assert successors[0].segments[0].token_ids is not None
    assert await stepper.step(successors[0], 2)
    assert len(policy.rendered) == 2, "the prompt, and the first child's observation"
    assert [segment.origin for segment in policy.rendered] == [Origin.PROMPT, Origin.OBSERVATION]


async def test_the_conversation_is_segments_of_exact_tokens_with_one_origin_each() -> None:
    stepper = stepping(WordPolicy(looking), own=True)
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    (grandchild,) = await stepper.step(child, 1)
    assert [segment.origin.value for segment in grandchild.segments] == [
        "prompt",
        "policy",
        "observation",
        "policy",
        "observation",
    ]
    assert grandchild.parent is not None
    rendered = grandchild.parent.segments
    mask = trained_mask(rendered)
    assert len(mask) == len(flat_token_ids(rendered))
    assert sum(mask) == len(rendered[1].token_ids or ()) == len(rendered[1].logprobs)
    assert rendered[1].policy_version == 5
    prompt, user = rendered[0].messages
    assert (prompt.role, user.role) == (Role.SYSTEM, Role.USER)
    assert user.images == question().images
    assert user.text.strip() == "What is one?"


async def test_only_what_the_policy_said_is_trained_and_only_if_it_is_its_own() -> None:
    for own in (True, False):
        stepper = stepping(WordPolicy(looking), own=own)
        (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
        assert [s.trained for s in child.segments] == [False, own, False]


async def test_a_task_says_how_to_sample() -> None:
    policy = WordPolicy(looking)
    task = TASK.model_copy(update={"temperature": 0.3, "top_p": 0.9, "top_k": 7, "max_turn_tokens": 50})
    stepper = stepping(policy, task, min_policy_version=2)
    await stepper.step(await stepper.start(question(), (0,)), 1)
    sampling = policy.calls[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (0.3, 0.9, 7, 50)
    assert policy.calls[0].min_policy_version == 2


async def test_an_observation_counts_against_the_budget_before_it_is_rendered() -> None:
    policy = WordPolicy(looking)
    task = TASK.model_copy(update={"max_tokens": 100, "observation_text_tokens": 20})
    stepper = stepping(policy, task)
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    (grandchild,) = await stepper.step(child, 1)
    words = len(zoom().split())
    assert [call.sampling.max_tokens for call in policy.calls] == [100, 100 - words - 20 - CROP_TOKENS]
    assert grandchild.record is not None


@pytest.mark.parametrize(("more", "stop"), [(1, None), (0, StopReason.MAX_TOKENS)])
async def test_a_zoom_whose_crop_would_not_fit_is_not_granted(more: int, stop: StopReason | None) -> None:
    needed = len(zoom().split()) + TASK.observation_text_tokens + CROP_TOKENS
    stepper = stepping(WordPolicy(looking), TASK.model_copy(update={"max_tokens": needed + more}))
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    assert child.stop is stop
    assert child.record is not None
    granted = stop is None
    assert (child.record.crop is not None) == (child.record.crop_image is not None) == granted
    assert (child.segments[-1].origin is Origin.OBSERVATION) == granted


async def test_a_tree_that_was_read_from_a_journal_goes_on_with_a_new_stepper() -> None:
    first = stepping(WordPolicy(looking))
    root = await first.start(question(), (0,))
    (child,) = await stepping(WordPolicy(looking)).step(root, 1)
    assert child.stop is None


@pytest.mark.parametrize(
    ("finish", "stop"), [(FinishReason.LENGTH, StopReason.MAX_TOKENS), (FinishReason.ABORTED, StopReason.CANCELLED)]
)
async def test_a_turn_that_was_cut_ends_the_conversation(finish: FinishReason, stop: StopReason) -> None:
    stepper = stepping(WordPolicy(lambda *_: "<think> so", finish))
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    assert child.stop is stop
    assert child.segments[-1].origin is Origin.POLICY


async def test_a_finished_conversation_has_no_successors() -> None:
    stepper = stepping(WordPolicy(lambda *_: answer()))
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    assert (child.stop, child.answer) == (StopReason.ANSWERED, "pink")
    with pytest.raises(ValueError, match="answered"):
        await stepper.step(child, 1)


async def test_the_last_permitted_turn_of_a_forcing_task_answers() -> None:
    def write(prompt: Sequence[Segment], index: int) -> str:
        return " pink </answer>" if prompt[-1].origin is Origin.FORCED else zoom(20 + 20 * len(said(prompt)), 30)

    policy = WordPolicy(write)
    stepper = stepping(policy, TASK.model_copy(update={"force_answer": True}), own=True)
    prefix = await stepper.start(question(), (0,))
    while prefix.stop is None:
        (prefix,) = await stepper.step(prefix, 1)
    assert prefix.depth == ZOOM.max_turns
    assert (prefix.stop, prefix.answer) == (StopReason.ANSWERED, "pink")
    forced, own = prefix.new_segments
    assert (forced.origin, forced.text, forced.trained) == (Origin.FORCED, FORCED_ANSWER_PREFIX, False)
    assert forced.token_ids is not None, "it was rendered with its prompt"
    assert (own.text, own.trained) == (" pink </answer>", True)
    assert prefix.record is not None
    assert prefix.record.text == FORCED_ANSWER_PREFIX + " pink </answer>"
    assert prefix.record.turn.action == Answer("pink")
    assert [call.prompt[-1].origin for call in policy.calls] == [Origin.PROMPT, Origin.OBSERVATION, Origin.FORCED]


@pytest.mark.parametrize("last", [True, False])
async def test_a_caller_may_say_that_a_turn_is_the_last(last: bool) -> None:
    policy = WordPolicy(lambda *_: " pink </answer>")
    stepper = stepping(policy, TASK.model_copy(update={"force_answer": True}))
    await stepper.step(await stepper.start(question(), (0,)), 1, last=last)
    assert (policy.calls[0].prompt[-1].origin is Origin.FORCED) == last


@pytest.mark.parametrize(
    ("reason", "stop"), [("ENGINE_FAILED", StopReason.POLICY_ERROR), ("CONTEXT_OVERFLOW", StopReason.CONTEXT_OVERFLOW)]
)
async def test_a_failing_policy_is_named_with_its_reason(reason: str, stop: StopReason) -> None:
    def fail(prompt: Sequence[Segment], index: int) -> str:
        raise PolicyError("broke", reason=reason, infrastructure=True, where="there")

    stepper = stepping(WordPolicy(fail))
    root = await stepper.start(question(), (0,))
    with pytest.raises(StepError) as caught:
        await stepper.step(root, 2)
    assert (caught.value.stop, caught.value.reason, caught.value.message) == (stop, reason, "broke")
    assert caught.value.infrastructure
    assert caught.value.metadata == {"where": "there"}
    assert isinstance(caught.value.__cause__, PolicyError)


async def test_a_failing_environment_is_named_with_its_reason() -> None:
    stepper = stepping(WordPolicy(looking))
    root = await stepper.start(question(), (0,))

    async def refuse(*_: object) -> None:
        raise EpisodeError("not mine", reason="STATE_INVALID")

    stepper.environment.step = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(StepError) as caught:
        await stepper.step(root, 1)
    assert (caught.value.stop, caught.value.reason) == (StopReason.ENVIRONMENT_ERROR, "STATE_INVALID")


async def test_a_text_exact_policy_makes_text_and_no_tokens() -> None:
    stepper = stepping(WordPolicy(looking, exact=False), TASK.model_copy(update={"max_tokens": 1}))
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    assert child.stop is None, "a budget of tokens binds no policy without any"
    assert {segment.token_ids for segment in child.segments} == {None}


def test_a_mode_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"single_turn, multi_turn, thought_steps, classic, found 'twice'") as caught:
        stepping(WordPolicy(looking), TASK.model_copy(update={"mode": "twice"}))
    assert caught.value.reason == "MODE_UNKNOWN"
