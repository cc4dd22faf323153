"""Samples and micro-batches: exactly the trained tokens, predicted from the place before each."""

from __future__ import annotations

import pytest

from vigorl_lib.domain.geometry import ResizeRule, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import ImageSpan, Origin, Segment
from vigorl_lib.errors import DataError
from vigorl_lib.training.batches import collate_samples, sample_of

RESIZE = ResizeRule(factor=28, min_pixels=28 * 28, max_pixels=112 * 112)
IMAGE = Image("ab", "image/png", Size(56, 28))


def segment(origin: Origin, *ids: int, trained: bool = False, logprobs: tuple[float, ...] = ()) -> Segment:
    spans = (ImageSpan(1, 2, IMAGE),) if origin is Origin.PROMPT else ()
    return Segment(origin, (), ids, spans, logprobs, trained=trained)


CHAIN = [
    segment(Origin.PROMPT, 1, 9, 9, 2),
    segment(Origin.DEMONSTRATION, 10, 11),
    segment(Origin.OBSERVATION, 3, 4),
    segment(Origin.DEMONSTRATION, 12, 13, trained=True),
    segment(Origin.OBSERVATION, 5, 6),
]


def test_only_trained_segments_are_targets_and_the_tail_is_cut() -> None:
    sample = sample_of(CHAIN, name="chain")
    assert sample.positions.tolist() == [8, 9]
    assert sample.sequence.token_ids == (1, 9, 9, 2, 10, 11, 3, 4, 12, 13)


def test_a_tail_that_was_never_rendered_does_no_harm() -> None:
    unrendered = Segment(Origin.OBSERVATION, ())
    assert len(sample_of([*CHAIN[:4], unrendered], name="chain")) == 10


def test_a_chain_without_trained_tokens_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="chain-7") as caught:
        sample_of(CHAIN[:3], name="chain-7")
    assert caught.value.reason == "NOTHING_TRAINED"


def test_sampler_logprobs_go_with_their_tokens() -> None:
    turns = [
        segment(Origin.PROMPT, 1, 9, 9, 2),
        segment(Origin.POLICY, 10, 11, trained=True, logprobs=(-0.1, -0.2)),
        segment(Origin.OBSERVATION, 3),
        segment(Origin.POLICY, 12, trained=True, logprobs=(-0.3,)),
    ]
    sample = sample_of(turns, name="rollout", advantage=0.5)
    assert sample.positions.tolist() == [4, 5, 7]
    assert sample.sampler_logprobs.tolist() == pytest.approx([-0.1, -0.2, -0.3])


def test_missing_sampler_logprobs_are_refused() -> None:
    turns = [segment(Origin.PROMPT, 1, 9, 9), segment(Origin.POLICY, 10, 11, trained=True, logprobs=(-0.1,))]
    with pytest.raises(DataError) as caught:
        sample_of(turns, name="rollout")
    assert caught.value.reason == "LOGPROBS_MISSING"


def test_a_micro_batch_reads_each_label_from_the_place_before_it() -> None:
    long = sample_of(CHAIN, name="long")
    short = sample_of([segment(Origin.PROMPT, 1, 9, 9), segment(Origin.DEMONSTRATION, 7, trained=True)], name="short")
    batch = collate_samples([long, short], resize=RESIZE)
    assert batch.inputs.input_ids.tolist() == [[*long.sequence.token_ids, *short.sequence.token_ids]]
    assert batch.places.tolist() == [7, 8, 12]
    assert batch.labels.tolist() == [12, 13, 7]
    assert batch.sequences.tolist() == [0, 0, 1]


def test_samples_of_one_prompt_are_predicted_from_its_one_last_token() -> None:
    prompt = segment(Origin.PROMPT, 1, 9, 9, 2)
    answers = [segment(Origin.DEMONSTRATION, token, 8, trained=True) for token in (5, 6)]
    batch = collate_samples([sample_of([prompt, answer], name="one") for answer in answers], resize=RESIZE)
    assert batch.inputs.input_ids.tolist() == [[1, 9, 9, 2, 5, 8, 6, 8]]
    assert batch.places.tolist() == [3, 4, 3, 6]
    assert batch.labels.tolist() == [5, 8, 6, 8]


def test_a_sample_that_trains_nothing_adds_no_target() -> None:
    sample = sample_of(CHAIN, name="chain")
    batch = collate_samples([sample.untrained()], resize=RESIZE)
    assert batch.labels.shape == (0,)
