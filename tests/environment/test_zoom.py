"""What the zoom environment makes of a turn, and what its crops show."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.environment.support import (
    ANSWER,
    MODEL,
    ORIGINAL,
    RESIZE,
    ZOOM,
    checkered,
    gradient,
    pixels,
    plain,
    play,
    zoom,
)
from vigorl_lib.domain.geometry import Border, Box, Frame, FrameMap, Point, Size
from vigorl_lib.domain.grammar import Continue, Zoom, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import InvalidTurn, Role, StopReason
from vigorl_lib.domain.wire import Spelling
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.state import MAX_KNOWN, EpisodeSetting, EpisodeState, Seal
from vigorl_lib.environment.zoom import GO_ON, PictureCache, ZoomEnvironment, crop_box, shown_size
from vigorl_lib.errors import DataError, EpisodeError
from vigorl_lib.rpc.gen.vigorl.environment.v1 import zoom_pb2


async def test_a_crop_of_the_original_shows_detail_that_the_models_view_has_not(environment: ZoomEnvironment) -> None:
    image = checkered()
    contrast = {}
    for source in ("original", "model"):
        config = ZoomConfig.model_validate(ZOOM.model_dump() | {"source": source})
        _, shown = await environment.crop(image, Point(56, 56), config=config, resize=RESIZE)
        contrast[source] = float(pixels(shown).std())
    assert contrast["original"] > 100
    assert contrast["model"] < 10


async def test_a_crop_shows_what_its_window_says(environment: ZoomEnvironment) -> None:
    crop, shown = await environment.crop(gradient(), Point(70, 35), config=ZOOM, resize=RESIZE)
    assert crop.window == Box(224, 84, 336, 196)
    assert crop.shown == shown.size == Size(112, 112)
    seen = pixels(shown)
    for x, y in ((4, 4), (56, 56), (100, 20)):
        there = crop.to_original(x, y)
        assert seen[y, x, :2] == pytest.approx((there.x / 2, there.y / 2), abs=3)


async def test_the_same_crop_is_the_same_bytes_everywhere() -> None:
    crops = []
    for threads in (1, 2):
        environment = ZoomEnvironment(threads=threads)
        crops.append(await environment.crop(gradient(), Point(33, 44), config=ZOOM, resize=RESIZE))
        await environment.close()
    assert crops[0] == crops[1]
    assert crops[0][1].data == crops[1][1].data
    assert crops[0][1].sha256 == digest(crops[0][1].data or b"")


async def test_at_an_edge_the_window_is_moved_inside(environment: ZoomEnvironment) -> None:
    for center, window in ((Point(0, 0), Box(0, 0, 112, 112)), (Point(111.9, 50), Box(336, 144, 448, 256))):
        crop, _ = await environment.crop(gradient(), center, config=ZOOM, resize=RESIZE)
        assert crop.window == window
        assert crop.shown == Size(112, 112)


async def test_a_clamped_window_is_cut_and_stretched(environment: ZoomEnvironment) -> None:
    config = ZOOM.model_copy(update={"border": Border.CLAMP})
    crop, shown = await environment.crop(gradient(), Point(0, 56), config=config, resize=RESIZE)
    assert crop.window == Box(0, 168, 56, 280)
    assert shown.size == Size(112, 112)


async def test_a_window_may_be_a_share_of_the_image(environment: ZoomEnvironment) -> None:
    config = ZOOM.model_copy(update={"window_share": 0.5})
    crop, shown = await environment.crop(gradient(), Point(56, 56), config=config, resize=RESIZE)
    assert crop.window == Box(112, 112, 336, 336), "half of an original of 448 px"
    assert shown.size == Size(112, 112)
    whole = ZOOM.model_copy(update={"window_share": 1.0})
    crop, _ = await environment.crop(gradient(), Point(3, 100), config=whole, resize=RESIZE)
    assert crop.window == Box(0, 0, 448, 448)


async def test_an_observation_is_spelled_as_configured(environment: ZoomEnvironment) -> None:
    (outcome,) = await play(environment, [zoom(50, 50)], ZOOM.model_copy(update={"observation": Spelling.DEMO}))
    assert outcome.observation is not None
    text, picture, rest = outcome.observation.parts
    assert isinstance(text, str)
    assert text.endswith("</observation>")
    assert (picture, rest) == (outcome.crop_image, "")


@given(
    size=st.builds(Size, st.integers(60, 3000), st.integers(60, 3000)),
    at=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    window=st.integers(1, 500),
    source=st.sampled_from(["original", "model"]),
    border=st.sampled_from(Border),
)
def test_a_window_is_inside_and_shown_in_whole_tokens(
    size: Size, at: tuple[float, float], window: int, source: str, border: Border
) -> None:
    frames = FrameMap(size, RESIZE.model_size(size))
    point = Point(at[0] * frames.model.width, at[1] * frames.model.height)
    config = ZoomConfig.model_validate({"window_model_px": window, "shown_px": 130, "source": source, "border": border})
    box = crop_box(frames, point, config)
    width, height = frames.extent(box.frame)
    assert box.frame == source
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    shown = shown_size(box, config, RESIZE)
    assert shown.width % 28 == shown.height % 28 == 0
    assert max(shown.width, shown.height) == 140, "130 is rounded to the factor"


async def test_a_dot_is_drawn_at_the_point_and_told_of(environment: ZoomEnvironment) -> None:
    config = ZOOM.model_copy(update={"dot": True})
    (with_dot,) = await play(environment, [zoom(0, 56)], config)
    (without,) = await play(environment, [zoom(0, 56)])
    assert with_dot.crop_image is not None
    assert without.crop_image is not None
    assert with_dot.observation is not None
    assert without.observation is not None
    assert pixels(with_dot.crop_image)[56, 2] == pytest.approx((255, 0, 0), abs=40), "at the edge, not in the middle"
    assert pixels(with_dot.crop_image)[56, 56] == pytest.approx((0, 0, 0), abs=5)
    assert pixels(without.crop_image)[56, 2] == pytest.approx((0, 0, 0), abs=5)
    assert "red dot" in with_dot.observation.text
    assert "red dot" not in without.observation.text
    (again,) = await play(environment, [zoom(0, 56)])
    assert again == without, "the cached original stays as it was"


async def test_a_zoom_is_answered_with_its_crop(environment: ZoomEnvironment) -> None:
    (outcome,) = await play(environment, [zoom(56, 56)])
    assert outcome.stop is None
    assert outcome.invalid is None
    assert outcome.observation is not None
    assert outcome.observation.role is Role.USER
    opening, shown, closing = outcome.observation.parts
    assert str(opening).startswith("<observation>")
    assert closing == "</observation>"
    assert shown == outcome.crop_image
    assert outcome.turn.action == Zoom(Point(56, 56))


async def test_an_answer_ends_the_episode(environment: ZoomEnvironment) -> None:
    *_, last = await play(environment, [zoom(56, 56), ANSWER])
    assert (last.stop, last.observation) == (StopReason.ANSWERED, None)


@pytest.mark.parametrize("last", [zoom(56, 56), "no turn", render_turn("Hm.", Zoom(Point(500, 5)))])
async def test_after_the_last_turn_nothing_is_shown(environment: ZoomEnvironment, last: str) -> None:
    outcomes = await play(environment, [zoom(20, 20), zoom(40, 40), zoom(60, 60), last])
    assert [outcome.stop for outcome in outcomes] == [None, None, None, StopReason.MAX_TURNS]
    assert (outcomes[-1].observation, outcomes[-1].crop) == (None, None)


async def test_an_answer_on_the_last_turn_counts(environment: ZoomEnvironment) -> None:
    (only,) = await play(environment, [ANSWER], ZOOM.model_copy(update={"max_turns": 1}))
    assert only.stop is StopReason.ANSWERED


async def test_a_thought_alone_is_asked_to_go_on(environment: ZoomEnvironment) -> None:
    step = render_turn("Perhaps at (5, 5).", Continue())
    (outcome,) = await play(environment, [step], mode="thought_steps")
    assert outcome.observation is not None
    assert (outcome.observation.text, outcome.invalid) == (GO_ON, None)
    *_, last = await play(environment, [step] * 4, mode="thought_steps")
    assert last.stop is StopReason.MAX_TURNS


BAD = {
    InvalidTurn.MALFORMED: ("no turn", "<think>"),
    InvalidTurn.OUTSIDE: (zoom(112, 5), "(112, 5) lies outside the image of 112x112 px"),
    InvalidTurn.REPEATED: (zoom(23, 24), "(23, 24) is nearer than 6 px"),
    InvalidTurn.OVER_BUDGET: (zoom(90, 90), "no zoom is left of 1"),
}


@pytest.mark.parametrize("kind", InvalidTurn)
@pytest.mark.parametrize("on_invalid", ["tell", "ignore", "stop"])
async def test_a_turn_that_cannot_be_acted_on_is_told_ignored_or_final(
    environment: ZoomEnvironment, kind: InvalidTurn, on_invalid: str
) -> None:
    text, detail = BAD[kind]
    config = ZoomConfig.model_validate(
        ZOOM.model_dump() | {"on_invalid": on_invalid, "min_distance_px": 6, "max_zooms": 1}
    )
    _, outcome = await play(environment, [zoom(20, 20), text], config)
    assert outcome.invalid is kind
    assert detail in outcome.detail
    assert outcome.crop is None
    if on_invalid == "stop":
        assert (outcome.stop, outcome.observation) == (StopReason.INVALID_TURNS, None)
    else:
        assert outcome.stop is None
        assert outcome.observation is not None
        assert outcome.observation.images == ()
        assert (detail in outcome.observation.text) == (on_invalid == "tell")


async def test_too_many_invalid_turns_end_the_episode(environment: ZoomEnvironment) -> None:
    outcomes = await play(environment, ["no turn", zoom(5, 5), "no turn", "no turn"], ZOOM)
    assert [outcome.stop for outcome in outcomes[:3]] == [None, None, None]
    config = ZOOM.model_copy(update={"max_turns": 9, "max_invalid_turns": 1})
    outcomes = await play(environment, ["no turn", zoom(5, 5), "no turn"], config)
    assert [outcome.stop for outcome in outcomes] == [None, None, StopReason.INVALID_TURNS]


async def test_a_refused_zoom_is_not_remembered_as_one(environment: ZoomEnvironment) -> None:
    config = ZOOM.model_copy(update={"min_distance_px": 6.0})
    outcomes = await play(environment, [zoom(20, 20), zoom(23, 24), zoom(26, 26)], config)
    assert [outcome.invalid for outcome in outcomes] == [None, InvalidTurn.REPEATED, None]
    assert Seal().decode(outcomes[-1].state).zoomed == (Point(20, 20), Point(26, 26))


async def test_every_point_may_be_seen_twice_unless_told_otherwise(environment: ZoomEnvironment) -> None:
    first, second = await play(environment, [zoom(20, 20), zoom(20, 20)])
    assert second.invalid is None
    assert first.crop == second.crop


async def test_an_answer_can_follow_when_no_zoom_is_left(environment: ZoomEnvironment) -> None:
    config = ZOOM.model_copy(update={"max_zooms": 2})
    outcomes = await play(environment, [zoom(20, 20), zoom(200, 5), zoom(40, 40), ANSWER], config)
    assert [outcome.invalid for outcome in outcomes] == [None, InvalidTurn.OUTSIDE, None, None]
    assert outcomes[-1].stop is StopReason.ANSWERED
    assert "answer" in (await play(environment, [zoom(20, 20), zoom(30, 30), zoom(40, 40)], config))[-1].detail


@pytest.mark.parametrize("texts", [[ANSWER], [zoom(20, 20)] * 4, ["no turn"] * 3], ids=["answer", "turns", "invalid"])
async def test_nothing_follows_the_end_of_an_episode(environment: ZoomEnvironment, texts: list[str]) -> None:
    *_, last = await play(environment, texts)
    assert last.stop is not None
    with pytest.raises(EpisodeError, match=f"ended after {len(texts)} turns") as caught:
        await environment.step(last.state, ANSWER, plain())
    assert caught.value.reason == "EPISODE_OVER"


async def test_lenient_reading_is_a_setting(environment: ZoomEnvironment) -> None:
    (strict,) = await play(environment, ["It is <answer> pink"])
    assert strict.invalid is InvalidTurn.MALFORMED
    (lenient,) = await play(environment, ["It is <answer> pink"], ZOOM.model_copy(update={"strict": False}))
    assert lenient.stop is StopReason.ANSWERED


async def test_a_step_is_a_function_of_state_text_and_image(environment: ZoomEnvironment) -> None:
    image = gradient()
    episode = await environment.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)
    assert episode.model_size == MODEL
    first = await environment.step(episode.state, zoom(30, 30), image)
    other = ZoomEnvironment(threads=1)
    assert await other.step(episode.state, zoom(30, 30), image) == first
    await other.close()
    left = await environment.step(first.state, zoom(50, 50), image)
    right = await environment.step(first.state, zoom(70, 70), image)
    assert Seal().decode(left.state).zoomed[0] == Seal().decode(right.state).zoomed[0], "a state may be continued twice"
    assert left.state != right.state


@pytest.mark.parametrize("broken", [b"", b"x", b"\x01" + b"0" * 40, b"\x02" + b"0" * 40, b"\x01" * (64 << 11)])
async def test_what_is_no_state_is_refused(environment: ZoomEnvironment, broken: bytes) -> None:
    with pytest.raises(EpisodeError) as caught:
        await environment.step(broken, ANSWER, plain())
    assert caught.value.reason == "STATE_INVALID"
    assert not caught.value.infrastructure


async def test_a_state_of_another_key_another_image_or_with_a_changed_byte_is_refused(
    environment: ZoomEnvironment,
) -> None:
    image = plain()
    state = (await environment.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)).state
    changed = state[:-1] + bytes([state[-1] ^ 1])
    stranger = ZoomEnvironment(key=b"another", threads=1)
    for where, what, picture_ in (
        (stranger, state, image),
        (environment, changed, image),
        (environment, state, plain(9)),
    ):
        with pytest.raises(EpisodeError) as caught:
            await where.step(what, ANSWER, picture_)
        assert caught.value.reason == "STATE_INVALID"
    await stranger.close()


def test_a_state_remembers_everything_that_a_step_needs() -> None:
    setting = EpisodeSetting("0" * 64, ORIGINAL, "multi_turn", ZOOM, RESIZE)
    state = EpisodeState(setting, 3, 1, (Point(1.5, 2), Point(3, 4)), True)
    sealed = Seal(b"k").encode(state)
    assert Seal(b"k").decode(sealed) == state
    assert Seal(b"k").encode(state) == sealed


def test_a_sealed_state_is_the_message_as_it_would_be_written_whole() -> None:
    setting = EpisodeSetting("0" * 64, ORIGINAL, "multi_turn", ZOOM, RESIZE)
    for state in (EpisodeState(setting), EpisodeState(setting, 3, 1, (Point(1.5, 2),), True)):
        payload = Seal().encode(state)[33:]
        assert zoom_pb2.EpisodeState.FromString(payload).SerializeToString(deterministic=True) == payload


def test_a_seal_forgets_the_oldest_states_and_opens_them_again() -> None:
    setting, seal = EpisodeSetting("0" * 64, ORIGINAL, "multi_turn", ZOOM, RESIZE), Seal()

    def fill(zooms: int) -> None:
        for turns in range(MAX_KNOWN):
            seal.encode(EpisodeState(setting, turns, zoomed=(Point(zooms, 0),)))

    first = EpisodeState(setting, 7)
    sealed = seal.encode(first)
    assert seal.decode(sealed) is first
    threads = [threading.Thread(target=fill, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seal._known) == MAX_KNOWN
    assert seal.decode(sealed) == first
    assert seal.decode(sealed) is not first


async def test_an_image_is_asked_for_only_until_it_is_cached(environment: ZoomEnvironment) -> None:
    image = plain()
    with pytest.raises(EpisodeError) as caught:
        await environment.start(image.without_data(), mode="multi_turn", config=ZOOM, resize=RESIZE)
    assert caught.value.reason == "IMAGE_NOT_CACHED"
    assert caught.value.metadata["sha256"] == image.sha256
    episode = await environment.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)
    outcome = await environment.step(episode.state, zoom(5, 5), image.without_data())
    assert outcome.crop is not None


def test_decoded_pictures_are_bounded_and_the_oldest_goes_first() -> None:
    one, two, three = (plain(color, side=100) for color in (1, 2, 3))
    cache = PictureCache(2 * 100 * 100 * 4)
    for image in (one, two, one, three):
        cache.original(image)
    assert cache.original(one.without_data()).size == (100, 100)
    assert cache.original(three.without_data()).size == (100, 100)
    with pytest.raises(EpisodeError):
        cache.original(two.without_data())
    larger = plain(4, side=300)
    cache.original(larger)
    assert cache.original(larger.without_data()).size == (300, 300), "one image is kept however large it is"
    with pytest.raises(EpisodeError):
        cache.original(one.without_data())


def test_views_are_made_once_and_count_as_much_as_originals() -> None:
    image, cache = plain(1, side=200), PictureCache(200 * 200 * 4 + 112 * 112 * 4)
    original = cache.original(image)
    view = cache.view(image, original, RESIZE)
    assert (view.size, cache.view(image, original, RESIZE)) == ((112, 112), view)
    cache.original(plain(2, side=10))
    assert cache.view(image, original, RESIZE) is view
    with pytest.raises(EpisodeError):
        cache.original(image.without_data())


async def test_bad_images_modes_and_points_are_refused_at_once(environment: ZoomEnvironment) -> None:
    broken = Image(digest(b"no picture"), "image/png", Size(5, 5), b"no picture")
    with pytest.raises(DataError) as caught:
        await environment.start(broken, mode="multi_turn", config=ZOOM, resize=RESIZE)
    assert caught.value.reason == "IMAGE_UNREADABLE"
    with pytest.raises(DataError) as caught:
        await environment.start(plain(), mode="no_mode", config=ZOOM, resize=RESIZE)
    assert caught.value.reason == "MODE_UNKNOWN"
    assert "multi_turn" in caught.value.message
    for point in (Point(112, 5), Point(-1, 5), Point(1000, 5, Frame.NORMALIZED)):
        with pytest.raises(DataError) as caught:
            await environment.crop(plain(), point, config=ZOOM, resize=RESIZE)
        assert caught.value.reason == "POINT_OUTSIDE"


async def test_a_center_may_be_given_in_any_frame(environment: ZoomEnvironment) -> None:
    centers = (Point(56, 28), Point(224, 112, Frame.ORIGINAL), Point(500, 250, Frame.NORMALIZED))
    crops = [await environment.crop(gradient(), center, config=ZOOM, resize=RESIZE) for center in centers]
    assert crops[0] == crops[1] == crops[2]
