"""Fixtures that every room's tests may use."""

from __future__ import annotations

pytest_plugins = ["tests.fixtures_s3", "tests.fixtures_models"]
