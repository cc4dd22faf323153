"""Writes charts/vigorl/README.md from the comments of values.yaml: `python -m tests.chart.readme`.

A comment that begins with `# --` belongs to the key below it; the next lines of it need no dashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from tests.chart.extras import CHART

README = CHART / "README.md"

HEAD = """\
# The vigorl chart

{description}

    helm install vigorl charts/vigorl -n team --create-namespace \\
        --set storage.s3.endpoint=s3.example.com --set storage.s3.existingSecret=vigorl-s3

[docs/kubernetes.md](../../docs/kubernetes.md) walks through an installation. Files in `ci/` are examples of values.
What is not listed here is refused. This page is made from the comments of `values.yaml` by
`python -m tests.chart.readme`.
"""


def readme() -> str:
    """The whole page."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    text = (CHART / "values.yaml").read_text()
    tree, lines = yaml.compose(text), text.splitlines()
    assert isinstance(tree, yaml.MappingNode)
    parts = [HEAD.format(description=chart["description"].rstrip(".") + ".")]
    for key, value in tree.value:
        parts.append(f"\n## `{key.value}`\n")
        if said := _comment(lines, key.start_mark.line):
            parts.append(f"\n{said}\n")
        rows = _rows(key.value, value, lines, above="")
        parts.append("\n| key | default | |\n|---|---|---|\n" + "".join(rows))
    return "".join(parts)


def _rows(path: str, node: yaml.Node, lines: list[str], above: str) -> Iterator[str]:
    """One row for each key whose value is written in one piece, and for each other key with a comment."""
    branch = isinstance(node, yaml.MappingNode) and bool(node.value) and not node.flow_style
    if not branch or above:
        cells = f"`{path}`", "" if branch else f"`{_default(node)}`", above
        yield "".join(f"| {_cell(cell)} " if cell else "| " for cell in cells) + "|\n"
    if branch:
        assert isinstance(node, yaml.MappingNode)
        for key, value in node.value:
            yield from _rows(f"{path}.{key.value}", value, lines, _comment(lines, key.start_mark.line))


def _cell(text: str) -> str:
    """Text that Markdown takes for no border and HTML for no tag."""
    plain = text.replace("|", "\\|")
    return plain if plain.startswith("`") else plain.replace("<", "&lt;")


def _default(node: yaml.Node) -> str:
    plain = yaml.safe_load(yaml.serialize(node))
    return plain if isinstance(plain, str) and plain else json.dumps(plain)


def _comment(lines: list[str], line: int) -> str:
    """The `# --` comment that ends above a line, as one line; empty where there is none."""
    found: list[str] = []
    for text in reversed(lines[:line]):
        text = text.strip()
        if not text.startswith("#"):
            return ""
        if text.startswith("# --"):
            return " ".join([text.removeprefix("# --").strip(), *found[::-1]])
        found.append(text.removeprefix("#").strip())
    return ""


if __name__ == "__main__":
    README.write_text(readme())
