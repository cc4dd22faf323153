"""A search tree as HTML: the scene with every place that was looked at, and the nested turns."""

from __future__ import annotations

from html import escape

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, FrameMap, Size
from vigorl_lib.domain.grammar import Zoom
from vigorl_lib.report.draw import thumbnail_uri
from vigorl_lib.report.figure import figure
from vigorl_lib.report.marks import Marks, Spot
from vigorl_lib.report.trajectory import MAX_SCENE_PX, SCENE_PX, highlight, render_action
from vigorl_lib.search.tree import Node, Rollout, Tree

GOOD_VALUE = 0.5
"""Nodes from this mean reward on are drawn as good ones."""


def render_tree(tree: Tree, example: Example, *, unfolded: bool = False) -> str:
    """The whole tree; children in the order in which they were made, the best line in bold."""
    image = example.images[0]
    best = {id(node) for node in best_line(tree.root)}
    rollouts: dict[int, list[Rollout]] = {}
    for rollout in tree.rollouts:
        rollouts.setdefault(rollout.node, []).append(rollout)
    state = "solved" if tree.solved else "not solved"
    head = f"{tree.simulations} simulations · {len(tree.nodes) - 1} turns · {len(tree.rollouts)} rollouts · {state}"
    picture = figure(
        thumbnail_uri(image, MAX_SCENE_PX),
        image.size,
        _marks(tree, example),
        width=SCENE_PX,
        alt=f"The original picture with the places that the tree looked at; {head}",
    )
    children = "".join(_node(child, best, rollouts) for child in tree.root.children)
    truth = f"truth: {escape(example.truth.answer)}" if example.truth.answer else ""
    return (
        f"<details{' open' if unfolded else ''}><summary>{escape(example.question)} <small>{head}</small></summary>"
        f'<div class="case"><div class="scene">{picture}<p class="seen">{truth}</p></div>'
        f'<ul class="tree"><li><div class="node"><span class="name">root</span>{_statistics(tree.root)}</div>'
        f"<ul>{children}</ul></li></ul></div></details>"
    )


def best_line(root: Node) -> list[Node]:
    """From the root along the most valuable child, ties to the most visited."""
    line, node = [root], root
    while node.children:
        node = max(node.children, key=lambda child: (child.value, child.visit_count))
        line.append(node)
    return line


def _node(node: Node, best: set[int], rollouts: dict[int, list[Rollout]]) -> str:
    record = node.prefix.record
    assert record is not None
    children = "".join(_node(child, best, rollouts) for child in node.children)
    ends = "".join(map(_end, rollouts.get(node.index, ())))
    return (
        f'<li{" class=best" if id(node) in best else ""}><div class="node"><span class="name">{node.index}</span>'
        f'{_statistics(node)}<div><span class="thought">{highlight(record.turn.thought)}</span> '
        f'<span class="action">{render_action(record.turn.action)}</span> {ends}</div></div>'
        f"{f'<ul>{children}</ul>' if children else ''}</li>"
    )


def _statistics(node: Node) -> str:
    """Visits and value, the value also as a bar."""
    return (
        f'<span class="visits">{node.visit_count}×</span>'
        f'<span class="value" title="mean reward"><i style="width:{100 * node.value:.0f}%"></i></span>'
        f'<span class="visits">{node.value:.2f}</span>'
    )


def _end(rollout: Rollout) -> str:
    """What a rollout from a node came to."""
    right = rollout.value >= 1.0
    end = rollout.trajectory.answer or rollout.trajectory.stop.value.replace("_", " ")
    return (
        f'<span class="chip {"good" if right else "bad"}" title="rollout">{"✓" if right else "✗"} {escape(end)}</span>'
    )


def _marks(tree: Tree, example: Example) -> Marks:
    """Each node's zoom by the node's number, and the target."""
    original = example.images[0].size
    spots = []
    for node in tree.nodes:
        action = node.prefix.record.turn.action if node.prefix.record is not None else None
        if isinstance(action, Zoom):
            point = FrameMap(original, model_size(tree, original)).point(action.point, Frame.ORIGINAL)
            spots.append(Spot(point.x, point.y, str(node.index), "good" if node.value >= GOOD_VALUE else "bad"))
    return Marks(tuple(spots), targets=example.truth.evidence)


def model_size(tree: Tree, original: Size) -> Size:
    """The size at which the policy saw the image, as the tree's trajectories tell it."""
    sizes = (rollout.trajectory.model_size for rollout in tree.rollouts)
    return next((size for size in sizes if size is not None), original)
