"""Every reason that `vigorl jobs` may give is in docs/errors.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (*(ROOT / "vigorl_lib" / "jobs").glob("*.py"), ROOT / "vigorl_lib" / "cli" / "jobs.py")


def test_every_reason_of_a_job_is_documented() -> None:
    text = "".join(source.read_text() for source in SOURCES)
    reasons = set(re.findall(r'(?:reason=|return )"([A-Z][A-Z_]+)"[,)\n]', text))
    assert {"RUN_EXISTS", "CRD_MISSING"} <= reasons
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "docs" / "errors.md").read_text()))
    assert reasons - documented == set()
