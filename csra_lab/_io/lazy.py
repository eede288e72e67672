"""Public names that are imported when they are first used (PEP 562)."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that holds names of other modules, without importing them yet.

    Args:
        package: the package's `__name__`.
        homes: name -> the module that defines it, as {"train": "csra_lab.training.loop"}. A submodule of the package
            needs no entry: `package.submodule` imports it.
    """

    def get(name: str) -> object:
        if name in homes:
            value = getattr(importlib.import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
