"""One search tree as a page to walk through: self-contained HTML with the tree's data and the script that draws it.

The page of a run (`page`) shows trees as they stand, without a script; this one is for looking into a single,
possibly large tree. Images stand in it once each, by digest; places are shares of the image's width and height, so
that the script needs no geometry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Box, Frame, FrameMap, Point
from vigorl_lib.domain.grammar import Answer, Continue, Malformed, Zoom
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import TurnRecord
from vigorl_lib.report.draw import thumbnail_uri
from vigorl_lib.report.tree import best_line, model_size
from vigorl_lib.search.tree import Node, Rollout, Tree

SCENE_PX = 1024
"""The original is embedded at this longer side at most."""
CROP_PX = 336
"""Crops are embedded at this longer side at most."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the page may load: nothing but what it holds."""

Load = Callable[[Image], Image]
"""Gives an image its bytes."""


def render_tree_page(tree: Tree, example: Example, load: Load) -> str:
    """The whole document. The example's first image must hold its bytes; crops get theirs by `load`."""
    folder = Path(__file__).parent
    style = "\n".join((folder / name).read_text(encoding="utf-8") for name in ("style.css", "tree_page.css"))
    script = (folder / "tree_page.js").read_text(encoding="utf-8")
    # No text of a model can end the element: in JSON `<` may be written as an escape.
    data = json.dumps(_Page(tree, example, load).data(), ensure_ascii=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    title = f"Search tree of {tree.example_id}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><style>\n{style}</style></head><body class="viewer">'
        f"{(folder / 'tree_page.html').read_text(encoding='utf-8').strip()}"
        f'<script type="application/json" id="data">{data}</script><script>\n{script}</script></body></html>\n'
    )


@dataclass(slots=True)
class _Page:
    """Gathers the data of one page, images by digest."""

    tree: Tree
    example: Example
    load: Load
    images: dict[str, str] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        rollouts: dict[int, list[Rollout]] = {}
        for rollout in self.tree.rollouts:
            rollouts.setdefault(rollout.node, []).append(rollout)
        best = {node.index for node in best_line(self.tree.root)}
        truth, scene = self.example.truth, self.example.images[0]
        nodes = [self._node(node, rollouts.get(node.index, []), node.index in best) for node in self.tree.nodes]
        return {
            "tree": self.tree.tree_id,
            "example": self.example.example_id,
            "question": self.example.question,
            "truth": truth.answer,
            "policy": self.tree.policy,
            "state": "solved" if self.tree.solved else "not solved",
            "end": self.tree.error or self.tree.end,
            "simulations": self.tree.simulations,
            "rollouts": len(self.tree.rollouts),
            "scene": thumbnail_uri(scene, SCENE_PX),
            "size": [scene.size.width, scene.size.height],
            "targets": [self._window(box) for box in truth.evidence],
            "nodes": nodes,
            "images": self.images,
        }

    def _node(self, node: Node, rollouts: list[Rollout], best: bool) -> dict[str, Any]:
        parent = node.parent.index if node.parent is not None else None
        found: dict[str, Any] = {
            "parent": parent,
            "visits": node.visit_count,
            "value": round(node.value, 4),
            "best": best,
            "exhausted": node.exhausted,
            "error": node.error,
            "stop": node.prefix.stop.value if node.prefix.stop is not None else "",
            "rollouts": [self._rollout(rollout, node.prefix.depth) for rollout in rollouts],
        }
        if node.prefix.record is not None:
            found["turn"] = self._turn(node.prefix.record)
        return found

    def _rollout(self, rollout: Rollout, depth: int) -> dict[str, Any]:
        trajectory = rollout.trajectory
        return {
            "value": rollout.value,
            "answer": trajectory.answer,
            "stop": trajectory.stop.value,
            "error": trajectory.error,
            "reward": trajectory.reward,
            "parts": trajectory.reward_parts,
            # The turns before are those of the path to the node.
            "turns": [self._turn(record) for record in trajectory.turns[depth:]],
        }

    def _turn(self, record: TurnRecord) -> dict[str, Any]:
        found: dict[str, Any] = {
            "thought": record.turn.thought.strip(),
            "points": [self._place(point) for point in record.turn.points],
            **_action(record),
        }
        if isinstance(record.turn.action, Zoom):
            found["zoom"] = self._place(record.turn.action.point)
        if record.invalid is not None:
            found["invalid"] = f"{record.invalid.value}: {record.detail}"
        if record.crop is not None:
            found["window"] = self._window(record.crop.window)
        if record.crop_image is not None:
            digest = record.crop_image.sha256
            if digest not in self.images:
                self.images[digest] = thumbnail_uri(self.load(record.crop_image), CROP_PX)
            found["crop"] = digest
        return found

    def _place(self, point: Point) -> list[float]:
        """x, y as written, then as shares of the image."""
        model = model_size(self.tree, self.example.images[0].size)
        placed = FrameMap(self.example.images[0].size, model).point(point, Frame.MODEL)
        return [point.x, point.y, round(placed.x / model.width, 5), round(placed.y / model.height, 5)]

    def _window(self, box: Box) -> list[float]:
        size = self.example.images[0].size
        values = (box.x0 / size.width, box.y0 / size.height, box.width / size.width, box.height / size.height)
        return [round(value, 5) for value in values]


def _action(record: TurnRecord) -> dict[str, str]:
    match record.turn.action:
        case Zoom(point):
            return {"action": "zoom", "says": f"({point.x:g}, {point.y:g})"}
        case Answer(text):
            return {"action": "answer", "says": text}
        case Continue():
            return {"action": "thought", "says": ""}
        case Malformed(reason, detail):
            return {"action": "malformed", "says": f"{reason.value}: {detail}"}
