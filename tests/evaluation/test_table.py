from __future__ import annotations

import json

from tests.evaluation.test_metrics import sample
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.table import (
    cells_to_json,
    comparison,
    comparisons_to_json,
    render_markdown,
    render_table,
    table_rows,
)


def cell(right: int, of: int, **rest: object) -> list[SampleRecord]:
    return [sample(f"e{k}", k < right, tags={"size": ("small", "large")[k % 2]}, **rest) for k in range(of)]


CELLS = {
    ("base", "single_turn"): cell(0, 10),
    ("a-rather-long-name", "multi_turn"): cell(8, 10, zooms=1, hit=True, point_error_px=2.25),
}


def test_columns_stand_under_each_other() -> None:
    header, rule, *rows = render_table(CELLS).splitlines()
    assert len(rows) == 2
    assert set(rule) == {"─"}
    assert len(rule) == max(map(len, [header, *rows]))
    for row, name in zip(rows, ("single_turn", "multi_turn"), strict=True):
        assert row.index(name) == header.index("mode")
        assert row[header.index("n") - 2 :].strip()
    for title in ("accuracy", "large", "small"):
        assert all(row[header.index(title) - 2 : header.index(title)] == "  " for row in rows)
    assert not any(line.endswith(" ") for line in (header, rule, *rows))


def test_every_share_comes_with_its_interval_and_what_is_not_known_is_a_dash() -> None:
    header, first, second = table_rows(CELLS)
    assert header == ["policy", "mode", "n", "accuracy", "large", "small", "zooms", "hit", "error px"]
    assert first[3] == "0.0 [0.0, 27.8]"
    assert first[-2:] == ["-", "-"]
    assert second == [
        "a-rather-long-name",
        "multi_turn",
        "10",
        "80.0 [49.0, 94.3]",
        "80.0 [37.6, 96.4]",
        "80.0 [37.6, 96.4]",
        "100%",
        "100%",
        "2.2",
    ]


def test_without_cells_there_is_only_a_header() -> None:
    assert table_rows({}) == [["policy", "mode", "n", "accuracy", "zooms", "hit", "error px"]]
    assert len(render_table({}).splitlines()) == 2


def test_markdown_has_the_same_cells() -> None:
    lines = render_markdown(CELLS).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {10}
    assert [part.strip() for part in lines[3].strip("|").split("|")] == table_rows(CELLS)[2]


def test_json_is_strict_json_with_everything_in_it() -> None:
    first, second = json.loads(json.dumps(cells_to_json(CELLS), allow_nan=False))
    assert (second["policy"], second["mode"]) == ("a-rather-long-name", "multi_turn")
    assert second["accuracy"]["n"] == 10
    assert set(second["by_tag"]) == {"large", "small"}
    assert first["figures"]["hit_rate"] is None
    assert second["figures"]["hit_rate"] == 1.0


def test_cells_are_compared_over_all_examples_or_those_of_one_tag() -> None:
    first, second = ("a-rather-long-name", "multi_turn"), ("base", "single_turn")
    everything = comparison(CELLS, first, second, samples=200)
    small = comparison(CELLS, first, second, examples="small", samples=200)
    assert (everything.paired.n, small.paired.n) == (10, 5)
    assert everything.paired.difference == 0.8
    assert comparison(CELLS, first, second, examples="huge", samples=200).paired.n == 0
    entries = json.loads(json.dumps(comparisons_to_json([everything, small])))
    assert [entry["examples"] for entry in entries] == ["all", "small"]
    assert entries[0]["first"] == list(first)
    assert entries[0]["difference"] == 0.8
