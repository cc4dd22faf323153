"""What people marked: files read back, put together, and refused where they do not belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vigorl_lib.cli.annotation import annotation as command
from vigorl_lib.errors import DataError
from vigorl_lib.evaluation.annotation import agree, read_annotation

Judged = tuple[str | None, int | None]


def saved(name: str, *judged: Judged, page: str = "p1", **changes: Any) -> str:
    """The file of one annotator; two places a trajectory."""
    marks = []
    for number, (right, helpful) in enumerate(judged):
        mark: dict[str, Any] = {"trajectory": f"t{number // 2}", "point": str(number % 2 + 1)}
        mark |= {"right": right} if right else {}
        marks.append(mark | ({"helpful": helpful} if helpful else {}))
    return json.dumps({"version": 1, "page": page, "annotator": name, "marks": marks} | changes)


ANA = saved("ana", ("yes", 5), ("yes", 4), ("no", 1), ("yes", 4))
BEN = saved("ben", ("yes", 4), ("yes", 4), ("no", 2), ("no", 2))


def test_annotators_are_put_together_and_compared() -> None:
    found = agree([read_annotation(ANA, "ana.json"), read_annotation(BEN, "ben.json")])
    assert (found.annotators, found.places) == (("ana", "ben"), 4)
    assert (found.right.value, found.right.n) == (5 / 8, 8)
    assert found.helpful.value == 26 / 8
    assert found.helpful_if_right.value == 21 / 5
    assert found.helpful_if_wrong.value == 5 / 3
    # They agree on three of four; chance would on (3 * 2 + 1 * 2) / 16.
    assert found.cohen == {("ana", "ben"): (pytest.approx(0.5), 4)}
    assert found.fleiss == pytest.approx((3 / 4 - (25 + 9) / 64) / (1 - (25 + 9) / 64))
    assert 0 < found.alpha_right < found.alpha_helpful < 1


def test_places_of_one_trajectory_are_no_independent_judgements() -> None:
    """Two right and two wrong trajectories, each with two places that share their fate."""
    twins = saved("ana", *([("yes", 3)] * 4 + [("no", 3)] * 4))
    found = agree([read_annotation(twins, "a")])
    assert found.right.value == 0.5
    assert found.right.high - found.right.low > 0.65
    assert found.cohen == {}


def test_unsure_and_unmarked_are_no_judgement() -> None:
    cid = saved("cid", ("unsure", 3), (None, 2), ("no", None))
    found = agree([read_annotation(ANA, "a"), read_annotation(cid, "c")])
    assert found.right.n == 5
    assert found.cohen["ana", "cid"][1] == 1
    assert found.fleiss is None, "not every place was judged by both"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "a.json: no JSON"),
        ("[]", "a.json: expected a JSON object"),
        (saved("ana", version=2), "version: expected 1, found 2"),
        (saved(" "), "annotator: expected a name"),
        (saved("ana", ("perhaps", 1)), "right: expected one of yes, no, unsure, found 'perhaps'"),
        (saved("ana", ("yes", 6)), "helpful: expected 1 to 5, found 6"),
        (saved("ana", marks=[{"point": "1"}]), "trajectory"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_annotation(text, "a.json")


@pytest.mark.parametrize("other", [saved("ana", ("yes", 1)), saved("ben", ("yes", 1), page="p2")])
def test_files_of_another_page_or_of_one_person_twice_are_refused(other: str) -> None:
    with pytest.raises(DataError) as failure:
        agree([read_annotation(ANA, "a"), read_annotation(other, "b")])
    assert failure.value.reason == "ANNOTATIONS_DIFFER"


def test_the_command_prints_text_or_json_without_nan(tmp_path: Path) -> None:
    files = []
    for name, text in (("ana", ANA), ("ben", saved("ben", ("yes", 3)))):
        (tmp_path / f"{name}.json").write_text(text)
        files.append(str(tmp_path / f"{name}.json"))
    told = CliRunner().invoke(command, ["agreement", *files], catch_exceptions=False).output
    assert "Cohen's kappa, right: ana and ben undefined over 1 places" in told
    assert "not every place was judged by as many" in told
    made = CliRunner().invoke(command, ["agreement", "--json", *files], catch_exceptions=False).output
    assert json.loads(made)["cohen"] == [{"annotators": ["ana", "ben"], "kappa": None, "places": 1}]
    assert json.loads(made)["right"]["n"] == 5
