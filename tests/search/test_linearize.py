from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.search.support import (
    RESIZE,
    TASK,
    ZOOM,
    WrittenPolicy,
    answer,
    example,
    said,
    scenes,
    search_one,
    searching,
    teacher,
    zoom,
)
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.grammar import MODES, Continue, Malformed, parse_turn, render_turn
from vigorl_lib.domain.trajectory import Origin, Role, Segment, Trajectory
from vigorl_lib.domain.wire import BACKTRACK_PHRASE
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import DataError
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.search.linearize import Chains, ChainTask, kind_of, linearize
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore

PROMPTS = ChainTask(Prompt("single", "Think, then answer.", ""), rules=ZOOM)
ALL = LinearizeConfig(max_chains_per_example=100, max_corrected_per_example=100, validation_share=0.0)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return scenes(ImageStore(FolderStorage(tmp_path_factory.mktemp("scenes"))), 12)


@pytest.fixture
async def trees(examples: list[Example]) -> list[Tree]:
    """Searched with a teacher that errs often."""
    policy = teacher(examples, Path("x"), distractor_rate=0.4, error_rate=0.2, unseen_error_rate=0.5)
    search = searching(policy, SearchConfig(simulations=3, children=3, rollouts_per_child=2, dedup_radius_px=3))
    return [(await search_one(search, scene))[0] for scene in examples]


def made(trees: Sequence[Tree], config: LinearizeConfig = ALL, seed: int = 0) -> Chains:
    return linearize(trees, config, PROMPTS, seed=seed)


def spoken(chain: Trajectory) -> list[str]:
    return [segment.text for segment in chain.segments if segment.origin is Origin.DEMONSTRATION]


async def test_every_chain_is_text_in_the_grammar_and_ends_right(trees: list[Tree], examples: list[Example]) -> None:
    chains = made(trees).train
    truth = {one.example_id: one.truth.answer for one in examples}
    assert {kind_of(chain) for chain in chains} == {"direct", "corrected", "single"}
    for chain in chains:
        assert chain.segments[0].origin is Origin.PROMPT
        assert all(segment.token_ids is None for segment in chain.segments)
        assert not any(segment.origin is Origin.POLICY for segment in chain.segments)
        turns = [parse_turn(text, MODES[chain.mode]) for text in spoken(chain)]
        assert turns == [record.turn for record in chain.turns]
        assert not any(isinstance(turn.action, Malformed) for turn in turns)
        assert chain.answer == truth[chain.example_id]
        assert chain.policy == "scripted-teacher"
        assert chain.outcome == "correct"


async def test_a_multi_turn_chain_replays_through_the_environment(trees: list[Tree], examples: list[Example]) -> None:
    images = {one.example_id: one.images[0] for one in examples}
    environment = ZoomEnvironment(threads=1)
    for chain in made(trees).train:
        if chain.mode != "multi_turn":
            continue
        image = images[chain.example_id]
        state = (await environment.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)).state
        observed = []
        for text in spoken(chain):
            outcome = await environment.step(state, text, image)
            state = outcome.state
            observed += [outcome.observation] if outcome.observation else []
        shown = [segment.messages[0] for segment in chain.segments if segment.origin is Origin.OBSERVATION]
        assert shown == observed
        assert [record.crop_image for record in chain.turns if record.crop_image] == [m.images[0] for m in observed]


async def test_ids_and_texts_are_unique_and_order_follows_examples_not_time(trees: list[Tree]) -> None:
    chains = made(trees).train
    assert len({chain.trajectory_id for chain in chains}) == len(chains)
    assert len({(chain.example_id, chain.mode, tuple(spoken(chain))) for chain in chains}) == len(chains)
    assert made(trees[::-1]).train == chains
    assert made(trees, seed=1).train != chains


async def test_caps_hold_for_each_example_and_mode(trees: list[Tree]) -> None:
    config = LinearizeConfig(max_chains_per_example=3, max_corrected_per_example=1, validation_share=0.0)
    chains = made(trees, config).train
    for tree in trees:
        for mode in ("multi_turn", "single_turn"):
            mine = [c for c in chains if c.example_id == tree.example_id and c.mode == mode]
            assert len(mine) <= 3
            assert sum(any(BACKTRACK_PHRASE in text for text in spoken(c)) for c in mine) <= 1
    assert any(kind_of(chain) == "corrected" for chain in chains)
    none = LinearizeConfig(max_corrected_per_example=0, single_turn=False)
    assert {kind_of(chain) for chain in made(trees, none).train} == {"direct"}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
async def test_zoom_only_and_mixed_sets_come_from_the_same_trees(trees: list[Tree], share: float) -> None:
    chains = made(trees, ALL.model_copy(update={"direct_share": share})).train
    multi = [chain for chain in chains if chain.mode == "multi_turn"]
    assert len(multi) >= 4
    assert abs(sum(chain.zooms == 0 for chain in multi) / len(multi) - share) < 0.5 / len(multi) + 1e-9
    single = [chain for chain in made(trees).train if chain.mode == "single_turn"]
    assert [chain for chain in chains if chain.mode == "single_turn"] == single


async def test_a_share_that_the_trees_cannot_give_is_refused(trees: list[Tree]) -> None:
    (tree, _) = await search_one(searching(WrittenPolicy(lambda *_: answer("pink")), SearchConfig(simulations=1)))
    with pytest.raises(DataError, match=r"direct_share: 0\.5 .* 1 without a zoom and 0 with one"):
        made([tree], ALL.model_copy(update={"direct_share": 0.5}))


async def test_no_example_is_in_both_splits(trees: list[Tree]) -> None:
    chains = made(trees, ALL.model_copy(update={"validation_share": 0.3}))
    train, validation = ({chain.example_id for chain in part} for part in (chains.train, chains.validation))
    assert train
    assert validation
    assert not train & validation


async def test_statistics_are_plain_numbers_that_add_up(trees: list[Tree]) -> None:
    chains = made(trees)
    found = json.loads(json.dumps(chains.statistics))
    assert found["trees"] == 12
    assert found["chains"] == len(chains.train) == sum(found[f"chains_{k}"] for k in ("direct", "corrected", "single"))
    assert found["rollouts"] == sum(len(tree.rollouts) for tree in trees)
    assert found["solve_rate"] == pytest.approx(sum(tree.solved for tree in trees) / 12)
    assert 0 < found["rollout_success_zooms_1"] <= 1
    assert linearize([], ALL, PROMPTS, seed=0).statistics["solve_rate"] == 0.0


async def tree_of(write: Callable[[Sequence[Segment], int], str], mode: str = "multi_turn") -> Tree:
    task = TASK.model_copy(update={"mode": mode, "prompt": "multi_turn"})
    config = SearchConfig(simulations=1, children=2, rollouts_per_child=1, dedup_radius_px=0)
    return (await search_one(searching(WrittenPolicy(write), config, task=task), example()))[0]


def two_ways(prompt: Sequence[Segment], index: int) -> str:
    """Both look at the middle; then the second child's way goes wrong, far away from the right place."""
    match len(said(prompt)):
        case 0:
            return zoom(50, 50, f"Look {'one' if index == 0 else 'two'} at")
        case 1:
            return zoom(100, 100, "There at") if "Look one" in said(prompt)[0] else zoom(10, 10, "Here at")
        case _:
            return answer("pink" if "There" in said(prompt)[1] else "cyan")


async def test_a_corrected_chain_goes_astray_once_and_never_repeats_what_was_shared() -> None:
    ways = iter([zoom(100, 100, "There at"), zoom(10, 10, "Here at")])

    def branching(prompt: Sequence[Segment], index: int) -> str:
        match len(said(prompt)):
            case 0:
                return zoom(50, 50, "Look at")
            case 1:
                return next(ways)
            case _:
                return answer("pink" if "There" in said(prompt)[1] else "cyan")

    chains = made([await tree_of(branching)]).train
    (chain,) = [chain for chain in chains if kind_of(chain) == "corrected"]
    assert [text.splitlines()[0] for text in spoken(chain)] == [
        "<think> Look at (50, 50). </think>",
        "<think> Here at (10, 10). </think>",
        f"<think> {BACKTRACK_PHRASE} There at (100, 100). </think>",
        "<think> The dot at (5, 5). </think>",
    ]
    assert [segment.trained for segment in chain.segments if segment.origin is Origin.DEMONSTRATION] == [
        True,
        False,
        True,
        True,
    ]
    assert not any("cyan" in text for text in spoken(chain))
    assert chain.zooms == 3
    (single,) = [c for c in chains if c.mode == "single_turn" and BACKTRACK_PHRASE in spoken(c)[0]]
    assert spoken(single) == [
        "<think> Look at (50, 50). Here at (10, 10). Wait, this seems off. Let's try something else. "
        "There at (100, 100). The dot at (5, 5). </think>\n<answer> pink </answer>"
    ]
    assert len(single.turns[0].turn.points) == 4


async def test_the_wrong_turn_is_trained_if_it_is_asked_for() -> None:
    def apart(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return zoom(100, 100) if index == 0 else zoom(10, 10)
        return answer("pink" if "100" in said(prompt)[0] else "cyan")

    config = ALL.model_copy(update={"train_wrong_branch": True})
    (chain,) = [c for c in made([await tree_of(apart)], config).train if kind_of(c) == "corrected"]
    assert all(segment.trained for segment in chain.segments if segment.origin is Origin.DEMONSTRATION)


async def test_the_right_place_read_wrongly_is_not_taught_as_a_wrong_place() -> None:
    def misread(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return zoom(50 + index, 50)
        return answer("pink" if "(50, 50)" in said(prompt)[0] else "cyan")

    assert [kind_of(chain) for chain in made([await tree_of(misread)]).train] == ["direct", "single"]


async def test_trees_of_thoughts_alone_give_single_turn_chains() -> None:
    def thinking(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return render_turn(f"Perhaps at ({20 + 40 * index}, 30).", Continue())
        return answer("pink" if "(60, 30)" in said(prompt)[0] else "cyan")

    chains = made([await tree_of(thinking, "thought_steps")]).train
    assert {chain.mode for chain in chains} == {"single_turn"}
    assert sorted(spoken(chain)[0].splitlines()[0] for chain in chains) == [
        "<think> Perhaps at (20, 30). Wait, this seems off. Let's try something else. Perhaps at (60, 30). "
        "The dot at (5, 5). </think>",
        "<think> Perhaps at (60, 30). The dot at (5, 5). </think>",
    ]


async def test_chains_are_asked_as_the_student_will_be() -> None:
    tree = await tree_of(two_ways)
    multi = Prompt("multi", "Zoom, then answer.", "")
    chains = linearize([tree], ALL, ChainTask(PROMPTS.single_turn, multi), seed=0).train
    asked = {chain.mode: chain.segments[0].messages for chain in chains}
    assert {mode: messages[0].text for mode, messages in asked.items()} == {
        "multi_turn": "Zoom, then answer.",
        "single_turn": "Think, then answer.",
    }
    for messages in asked.values():
        assert [message.role for message in messages] == [Role.SYSTEM, Role.USER]
        assert messages[1] == tree.root.prefix.segments[0].messages[1]


async def test_chains_too_long_or_without_points_are_left_out() -> None:
    tree = await tree_of(two_ways)
    assert {c.mode for c in made([tree], ALL.model_copy(update={"max_turns": 2})).train} == {"single_turn"}
    assert not made([tree], ALL.model_copy(update={"min_points": 9})).train


async def test_single_turn_chains_can_leave_out_what_only_a_crop_showed(trees: list[Tree]) -> None:
    """A thought written after a zoom says what one look cannot show; the switch keeps it from single-turn chains."""
    every = [spoken(c)[0] for c in made(trees).train if kind_of(c) == "single"]
    config = ALL.model_copy(update={"single_turn_after_zoom": False})
    kept = [spoken(c)[0] for c in made(trees, config).train if kind_of(c) == "single"]
    assert kept
    assert set(kept) < set(every)
    assert any("The dot at" in text for text in every)
    assert not any("The dot at" in text for text in kept)
