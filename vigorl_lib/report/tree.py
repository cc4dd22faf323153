"""A search tree as HTML: nested turns with visit counts and values, the best line in bold."""

from __future__ import annotations

from vigorl_lib.report.trajectory import action_text, highlight
from vigorl_lib.search.tree import Node, Tree


def render_tree(tree: Tree) -> str:
    """The whole tree; children in the order in which they were made."""
    best = set(map(id, _best_line(tree.root)))
    state = "solved" if tree.solved else tree.end or "unfinished"
    head = f"{tree.simulations} simulations · {len(tree.rollouts)} rollouts · {state}"
    children = "".join(_node(child, best) for child in tree.root.children)
    return f'<p class="stat">{head} · policy {tree.policy}</p><ul class="tree">{children}</ul>'


def _node(node: Node, best: set[int]) -> str:
    record = node.prefix.record
    assert record is not None
    stat = f"N {node.visit_count} · Q {node.value:.2f}"
    thought = f'<span class="thought">{highlight(record.turn.thought)}</span>'
    text = f'{thought} <span class="action">{action_text(record)}</span>'
    children = "".join(_node(child, best) for child in node.children)
    nested = f"<ul>{children}</ul>" if children else ""
    mark = ' class="best"' if id(node) in best else ""
    return f'<li{mark}><div class="node"><span class="stat">{stat}</span> {text}</div>{nested}</li>'


def _best_line(root: Node) -> list[Node]:
    """From the root along the most visited child, ties to the more valuable."""
    line, node = [root], root
    while node.children:
        node = max(node.children, key=lambda child: (child.visit_count, child.value))
        line.append(node)
    return line
