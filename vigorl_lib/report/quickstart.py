"""What the quickstart's report tells: names, which cells are compared, and what a reader must know first."""

from __future__ import annotations

from vigorl_lib.evaluation.metrics import Proportion, accuracy, split_by, summarize
from vigorl_lib.evaluation.table import SPLIT_TAG, Cell, Cells, comparison
from vigorl_lib.report.content import Headline

SINGLE, MULTI = "single_turn", "multi_turn"
BEFORE, AFTER = ("mix", MULTI), ("grpo", MULTI)
"""The policy that GRPO starts from, and what becomes of it."""

TITLE = "A tiny model learns where to look"
LEAD = (
    "A small Qwen2.5-VL, initialised at random on this machine, learns to point, to zoom into the original picture and "
    "to read what it finds there. Half of the questions are about a dot that is two pixels wide in the first view: "
    "this policy reads it only after a zoom (a stronger one might not need to)."
)
NAMES = {
    "captions": "captions only",
    "sft": "two-turn SFT",
    "mix": "mixed SFT",
    "grpo": "GRPO",
}
NOTES = (
    (
        "A crutch",
        "The scenes are synthetic and their background is a colour ramp, so that a patch's own look tells where it "
        "lies. Without the ramp a model this small does not learn to point in this time.",
    ),
    (
        "A scripted teacher",
        "The trees that the first chains come from were searched with a teacher that knows each scene. It explores and "
        "errs at set rates, and says in every record that it is scripted.",
    ),
    (
        "What this shows",
        "That the mechanism works from end to end, not what a pretrained model can do. Questions have four possible "
        "answers, so chance is 25 %. Test scenes were seen by no stage. GRPO starts from “mixed SFT”, which can zoom "
        "and mostly does not; a quarter of its groups answer in one turn, so that it does not forget how to.",
    ),
)
COMPARISONS: tuple[tuple[Cell, Cell, str], ...] = (
    (AFTER, BEFORE, ""),
    (AFTER, ("sft", MULTI), ""),
    (("sft", MULTI), ("sft", SINGLE), "small"),
    (AFTER, ("sft", SINGLE), "small"),
    (("sft", MULTI), ("captions", MULTI), ""),
)
"""(this cell, against that one, over the examples of this size)."""
LOSSES = (("captions", "captions"), ("sft", "two-turn SFT"), ("mix", "mixed SFT"))
"""(stage, title) of the supervised stages."""
SEARCHES = (("", "train", "Scripted teacher"), ("-student", "validation", "The fine-tuned student"))
"""(what the run id ends in, split, title) of the searches."""

CHAINS = "zoom"
"""Name of the chains that are shown."""
CHAIN_KINDS = (
    ("corrected", "A chain that goes astray and comes back"),
    ("direct", "A chain that zooms"),
    ("single", "A single-turn chain"),
)
"""(kind, title)."""
CHAIN_FIGURES = {
    "solve_rate": "questions solved",
    "turns_per_solved": "turns sampled a solved question",
    "tokens_per_solved": "tokens sampled a solved question",
    "chains": "chains",
    "chains_direct": "multi-turn",
    "chains_corrected": "corrected",
    "chains_single": "single-turn",
    "turns_per_chain": "turns a chain",
    "words_per_chain": "words a chain",
    "points_per_chain": "points a chain",
}
"""Title by name in the statistics."""


def headlines(cells: Cells) -> list[Headline]:
    """The few numbers that the story turns on, as far as they were measured."""
    if AFTER not in cells:
        return []
    found = [_proportion(accuracy(cells[AFTER]), "of all test questions right after GRPO")]
    zooming, looking = ("sft", MULTI), ("sft", SINGLE)
    # Of SFT, which was taught both alike: GRPO zooms in three groups of four, which is no merit of zooming.
    if zooming in cells and looking in cells and split_by(cells[zooming], SPLIT_TAG).get("small"):
        found.append(_difference(cells, zooming, looking, "small", "two-turn SFT with zooms against one look, small"))
    if BEFORE in cells:
        found.append(_difference(cells, AFTER, BEFORE, "", "GRPO against the policy that it started from"))
        rates = [f"{summarize(cells[cell])['zoom_rate']:.0%}" for cell in (BEFORE, AFTER)]
        found.append(Headline(" → ".join(rates), "greedy, test split", "of answers zoom first, before and after GRPO"))
    return found


def _proportion(share: Proportion, text: str) -> Headline:
    return Headline(f"{share.value:.1%}", f"{100 * share.low:.1f} … {100 * share.high:.1f}", text)


def _difference(cells: Cells, first: Cell, second: Cell, examples: str, text: str) -> Headline:
    paired = comparison(cells, first, second, examples=examples).paired
    interval = f"{100 * paired.low:+.1f} … {100 * paired.high:+.1f}, paired"
    return Headline(f"{100 * paired.difference:+.1f} points", interval, text)
