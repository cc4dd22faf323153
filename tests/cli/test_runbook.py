"""The operators' pages: their commands parse against the real command line, and what they name is there."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from tests.chart.render import CHART
from tests.parsing import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("runbook.md", "cluster-client.md", "kubernetes.md")
FILES = ("ca.crt", "token", "picture.jpg", "cluster.yaml")
FOLDERS = ("student-2", "model", "tiny")


def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def commands() -> list[tuple[str, str]]:
    """Page and line of every command of ours, those in pipes and in running text included."""
    found = []
    for page in PAGES:
        if (ROOT / "docs" / page).is_file():
            blocks = re.findall(r"^ {4,}(vigorl .*)$", text(page), flags=re.MULTILINE)
            inline = re.findall(r"`(vigorl [a-z]+ [^`]*--[^`]*)`", text(page).replace("\n", " "))
            found += [(page, line) for line in (*blocks, *inline) if not any(word in line for word in ("…", "FILE"))]
    return found


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:60])
def test_every_command_of_ours_parses(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in FILES:
        Path(name).touch()
    for name in FOLDERS:
        Path(name).mkdir()
    words = shlex.split(line, comments=True)[1:]
    parse([word.replace("~/.config/vigorl/lab.token", "token") for word in words])


def test_reasons_alerts_and_metrics_of_the_runbook_exist() -> None:
    told = text("runbook.md")
    reasons = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", told)) - {"CURRENT", "HF_HUB_OFFLINE"}
    sources = "\n".join(
        path.read_text() for folder in ("vigorl_lib", "services") for path in (ROOT / folder).rglob("*.py")
    )
    assert reasons
    assert [reason for reason in reasons if f'"{reason}"' not in sources] == []
    alerts = (CHART / "alerts" / "vigorl.yaml").read_text()
    assert [alert for alert in re.findall(r"`(Vigorl\w+)`", told) if f"alert: {alert}" not in alerts] == []
    assert [name for name in re.findall(r"\bvigorl_[a-z_]+\b", told) if name not in sources] == []


def test_settings_of_the_runbook_exist() -> None:
    """Recipe keys in commands resolve; keys in running text end in a field of that name."""
    from vigorl_lib.cli.common import resolve

    recipes = {"sft": "quickstart-sft", "grpo": "quickstart-grpo", "search": "quickstart-search"}
    for page, line in commands():
        words = shlex.split(line, comments=True)
        overrides = tuple(value for flag, value in itertools.pairwise(words) if flag == "--set")
        if page == "runbook.md" and overrides:
            kind = next((kind for kind in recipes if kind in words), "search")
            resolve(recipes[kind], overrides)
