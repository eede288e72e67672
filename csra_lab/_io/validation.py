"""Whether what was read from a file or a command line is of the kind that it should be."""

import dataclasses
import reprlib
import types
import typing
import unicodedata
from collections.abc import Sequence
from numbers import Integral, Real

from csra_lab.errors import ConfigError

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a table"}


def check_types(instance, what: str) -> None:
    """Raise a CsraError for the first field whose value is not of its type.

    A truth value is no number, a whole number may stand for a fraction, and NaN is nothing.

    Args:
        instance: of a dataclass with fields of type bool, int, float, str, dict, `tuple[T, ...]`, `Literal` or
            `T | None`.
        what: begins the sentence.
    """
    kinds = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if not _fits(value, kinds[field.name]):
            raise ConfigError(f"{what}: {field.name} must be {_words(kinds[field.name])}, not {reprlib.repr(value)}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise a CsraError for a value that is none of the choices: a misspelt word must not mean another one."""
    if value not in choices:
        raise ConfigError(f"{name} must be {' or '.join(choices)}, not {value!r}.")


def is_plain(name: str) -> bool:
    """Whether a name read from a file can be shown and stored: not empty, no control characters, no half characters."""
    return bool(name.strip()) and not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def printable(text: str, keep: str = "") -> str:
    """A text without what would steer a terminal, as names of files can: codes but those to keep are spelt."""
    return "".join(c if c.isprintable() or c in "\xa0\u202f\u3000\u200c\u200d" + keep else repr(c)[1:-1] for c in text)


def is_name(name: object) -> bool:
    """Whether it is a text that `is_plain`."""
    return isinstance(name, str) and is_plain(name)


def _fits(value, kind) -> bool:
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is typing.Literal:
        return isinstance(value, str) and value in inner
    if outer is types.UnionType:
        return any(_fits(value, each) for each in inner)
    if outer is tuple:
        return isinstance(value, tuple) and all(_fits(each, inner[0]) for each in value)
    if outer is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and value == value
    return isinstance(value, kind)


def _words(kind) -> str:
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is typing.Literal:
        return f"one of {', '.join(inner)}"
    if outer is types.UnionType:
        return " or ".join("nothing" if each is types.NoneType else _words(each) for each in inner)
    if outer is tuple:
        return f"a list of which each is {_words(inner[0])}"
    return _WORDS.get(outer or kind, f"a {getattr(kind, '__name__', kind)}")
