"""Typed access to the fields of one JSON record; a wrong field is a DataError that says where and what.

This knows nothing of any particular record; the formats are in `vigorl_lib.data.records` and
`vigorl_lib.data.trajectory_records`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

from vigorl_lib.errors import DataError

_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Fields:
    """One JSON object and where it stands, `file:line` for the reader of an error."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise DataError(
                f"{where}: expected a JSON object, found {_shown(values)}", reason="RECORD_INVALID", where=where
            )
        self.values: dict[str, Any] = values
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self._value(name, str, default)
        assert isinstance(value, str)
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        value = self._value(name, int, default)
        assert isinstance(value, int)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, float, default)
        assert isinstance(value, int | float)
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self._value(name, bool, default)
        assert isinstance(value, bool)
        return value

    def items(self, name: str, default: Collection[Any] | None = None) -> list[Any]:
        value = self._value(name, list, None if default is None else list(default))
        assert isinstance(value, list)
        return value

    def nested(self, name: str) -> Fields:
        return Fields(self._value(name, dict, None), f"{self.where}: {name}")

    def objects(self, name: str, default: Collection[Any] | None = None) -> Iterator[Fields]:
        for index, value in enumerate(self.items(name, default)):
            yield Fields(value, f"{self.where}: {name}[{index}]")

    def numbers(self, name: str, length: int) -> list[float]:
        """A list of exactly `length` numbers."""
        return self.numbers_of(name, self.items(name), length)

    def numbers_of(self, name: str, value: object, length: int) -> list[float]:
        if not isinstance(value, list) or len(value) != length or not all(_is(v, float) for v in value):
            raise self.error(f"{name}: expected {length} numbers, found {_shown(value)}")
        return value

    def refuse_unknown(self, known: Collection[str]) -> None:
        for name in self.values:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known fields: {', '.join(sorted(known))}"
                raise self.error(f"unknown field {name!r}{hint}")

    def error(self, problem: str, reason: str = "RECORD_INVALID") -> DataError:
        return DataError(f"{self.where}: {problem}", reason=reason, where=self.where)

    def _value(self, name: str, kind: type, default: object) -> object:
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise self.error(f"the field {name!r} is missing; expected {_NAMES[kind]}")
            return default
        if not _is(value, kind):
            raise self.error(f"{name}: expected {_NAMES[kind]}, found {_shown(value)}")
        return value


def parse_line(line: bytes | str, where: str) -> Fields:
    """One line of a JSONL file. Raises DataError (RECORD_INVALID)."""
    try:
        return Fields(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected one JSON object: {error}", reason="RECORD_INVALID", where=where) from None


def numbered_lines(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """`name:line` and content of every line that is not blank; lines end at a newline and nowhere else."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield f"{name}:{number}", line


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
