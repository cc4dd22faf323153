"""The table in its three forms."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.evaluation.test_metrics import records
from vigorl_lib.evaluation.table import (
    cells_to_json,
    comparison,
    comparisons_to_json,
    render_markdown,
    render_table,
    render_tags,
    table_rows,
)

CELLS = {
    ("sft", "single_turn"): [*records("rwww", "small"), *records("rrrw", "large")],
    ("sft", "multi_turn"): [*records("rrrr", "small"), *records("rrrw", "large")],
}


def test_text_has_a_row_a_cell_and_aligned_columns() -> None:
    header, rule, *rows = render_table(CELLS).splitlines()
    assert header.split()[:6] == ["policy", "mode", "n", "accuracy", "large", "small"]
    assert set(rule) == {"─"}
    assert [row.index("75.0 [") for row in rows if "multi_turn" in row] == [header.index("large")]
    assert rows[0].startswith("sft")
    assert "50.0 [21.5, 78.5]" in rows[0]
    assert not any(line.endswith(" ") for line in (header, *rows))


def test_what_is_not_known_is_a_dash() -> None:
    header, row = table_rows({("sft", "single_turn"): records("rr", "small")})
    assert dict(zip(header, row, strict=True))["hit"] == "-"
    assert dict(zip(header, row, strict=True))["error px"] == "-"
    header, row = table_rows({("sft", "single_turn"): []})
    nothing = dict(zip(header, row, strict=True))
    assert (nothing["n"], nothing["accuracy"], nothing["cut off"]) == ("0", "-", "-")
    cells = {("a", "m"): records("r", "small"), ("b", "m"): records("r", "large")}
    assert [row[4:6].index("-") for row in table_rows(cells)[1:]] == [0, 1]
    assert len(render_table({}).splitlines()) == 2, "without cells there is a header"


def test_answers_that_had_no_room_are_told_beside_the_accuracy() -> None:
    ended = [replace(record, stop="max_tokens") for record in records("rrww")]
    header, row = table_rows({("sft", "single_turn"): [*ended, *records("rrrrww", "small")]})
    told = dict(zip(header, row, strict=True))
    assert (told["n"], told["cut off"], told["not parseable"]) == ("10", "40.0", "0.0")


def test_tags_that_are_no_columns_have_a_table_of_their_own() -> None:
    cell = [replace(record, tags={"topic": "ab"[k % 2], "name": str(k)}) for k, record in enumerate(records("rwrw"))]
    header, rule, *rows = render_tags({("sft", "single_turn"): cell}).splitlines()
    assert header.split()[:6] == ["policy", "mode", "tag", "value", "n", "accuracy"]
    assert set(rule) == {"─"}
    assert [row.split()[2:6] for row in rows] == [["topic", "a", "2", "100.0"], ["topic", "b", "2", "0.0"]]
    assert render_tags(CELLS) == "", "sizes are columns of the table"


def test_markdown_has_as_many_columns_in_every_row() -> None:
    lines = render_markdown(CELLS).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(CELLS)


def test_json_has_intervals_and_no_number_that_json_cannot_say() -> None:
    first = json.loads(json.dumps(cells_to_json(CELLS), allow_nan=False))[0]
    assert first["policy"] == "sft"
    assert first["accuracy"]["n"] == 8
    assert first["accuracy"]["low"] < first["accuracy"]["value"] == 0.5 < first["accuracy"]["high"]
    assert first["by_tag"]["size"]["small"]["value"] == 0.25
    assert first["figures"]["hit_rate"] is None


def test_comparison_can_be_limited_to_a_tag() -> None:
    multi, single = ("sft", "multi_turn"), ("sft", "single_turn")
    everything, small = comparison(CELLS, multi, single), comparison(CELLS, multi, single, examples="small")
    assert (everything.paired.n, small.paired.n) == (8, 4)
    assert small.paired.difference == 0.75
    written = comparisons_to_json([everything, small])
    assert [entry["examples"] for entry in written] == ["all", "small"]
    assert written[1]["difference"] == 0.75
