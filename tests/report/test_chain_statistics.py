from __future__ import annotations

from tests.report.conftest import POLICIES, STAGES, Run
from tests.report.test_run import Page
from vigorl_lib.report.chain_statistics import render_statistics
from vigorl_lib.report.run import write_report

STATISTICS = {
    "chains": 1234,
    "turns_per_solved": 7.5,
    "success_at_1": 0.5,
    "success_at_2": 0.75,
    "success_at_1_depth_1": 0.25,
    "chains_turns_2": 30,
    "chains_turns_10": 60,
    "chains_points_3": 5,
}


def test_named_figures_are_shown_and_others_left_out() -> None:
    html = render_statistics(STATISTICS, {"chains": "all chains", "turns_per_solved": "turns", "absent": "nothing"})
    Page(html)
    assert "<dt>all chains</dt><dd>1,234</dd>" in html
    assert "<dt>turns</dt><dd>7.5</dd>" in html
    assert "nothing" not in html


def test_success_has_a_curve_for_each_depth_and_sizes_a_bar_each() -> None:
    html = render_statistics(STATISTICS, {})
    assert "all rollouts" in html
    assert "from depth 1" in html
    assert "from depth 2" not in html
    # By size as numbers, the fuller one the longest.
    assert html.index(">2</th><td>30</td>") < html.index(">10</th><td>60</td>")
    assert "width:50.0%" in html
    assert render_statistics({}, {"chains": "chains"}) == ""


def test_the_report_of_a_run_shows_them(run: Run) -> None:
    write_report(run.storage, run.recipe, policies=POLICIES, stages=STAGES)
    html = run.storage.read("runs/quickstart/report.html").decode()
    assert "success@k by depth" in html
    assert "Multi-turn chains by turns" in html
    assert "turns sampled a solved question" in html
