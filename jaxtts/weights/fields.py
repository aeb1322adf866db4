"""Reading a foreign JSON configuration without trusting it: every value checked, every complaint naming its field."""

from collections.abc import Mapping
from typing import Any

_ABSURD = 1_000_000


class Fields:
    """The entries of one JSON object.

    Args:
        values: what the file holds there; anything but an object counts as an empty one.
        where: what to call it in messages, such as 'model_args'.
    """

    def __init__(self, values: Any, where: str = "config.json"):
        self.values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def section(self, name: str) -> "Fields":
        """The object under a name, empty if there is none."""
        return Fields(self.values.get(name), f"{self.where}, section {name!r},")

    def whole(self, name: str, default: int | None = None, *, least: int = 1, most: int = _ABSURD) -> int:
        """A whole number; `null` counts as absent.

        Raises:
            ValueError: absent without a default, no whole number, or out of range.
        """
        value = self._get(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise self._wrong(name, value, "a number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def wholes(self, name: str, default: tuple[int, ...] | None = None, *, most: int = 1000) -> tuple[int, ...]:
        """Some positive whole numbers."""
        value = self._get(name, default)
        if not _wholes(value, most):
            raise self._wrong(name, value, f"a list of whole numbers from 1 to {most}")
        return tuple(value)

    def lists(
        self, name: str, default: tuple[tuple[int, ...], ...] | None = None, *, most: int = 1000
    ) -> tuple[tuple[int, ...], ...]:
        """Lists of positive whole numbers."""
        value = self._get(name, default)
        if not isinstance(value, list | tuple) or not 0 < len(value) <= 100 or not all(_wholes(v, most) for v in value):
            raise self._wrong(name, value, f"lists of whole numbers from 1 to {most}")
        return tuple(map(tuple, value))

    def expect(self, name: str, *allowed: Any) -> None:
        """Refuses an option that has no counterpart here: `null`, absent and `allowed` pass.

        Raises:
            ValueError: it has another value.
        """
        value = self.values.get(name)
        if value is not None and value not in allowed:
            known = " or ".join(map(repr, allowed)) or "null"
            raise ValueError(f"{self.where} has {name}={value!r}, which is not supported; only {known} is")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise ValueError(f"{self.where} lacks {name!r}")
        return value

    def _wrong(self, name: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{self.where} has {name}={str(value)[:100]!r}: expected {expected}")


def _wholes(value: Any, most: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) <= 100
        and all(type(n) is int and 1 <= n <= most for n in value)
    )
