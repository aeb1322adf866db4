"""Configurations: frozen dataclasses of numbers, strings, tuples and other configurations; JSON in and out."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON-ready nested dicts (tuples become lists)."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`; checks names and fills nested configurations.

    Raises:
        ValueError: names a field that `cls` has not, or one it needs and did not get.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"{cls.__qualname__} has no field {', '.join(unknown)}; it has {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    try:
        return cls(**{name: _typed(hints[name], value) for name, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{cls.__qualname__}: {error}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _typed(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hints = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _typed(hints[0], value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list):
        inner = (typing.get_args(hint) or (Any,))[0]
        return tuple(_typed(inner, v) for v in value)
    return value
