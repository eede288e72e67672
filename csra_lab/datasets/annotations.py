"""Annotation files in JSON: read whole, checked, every failure one sentence."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from csra_lab._io.validation import is_plain
from csra_lab.errors import DataError


def read_annotations(path: Path, *, lists: tuple[str, ...]) -> dict:
    """The JSON object in `path`, which must hold a list under each key in `lists`. CsraError otherwise."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"The annotations {path} cannot be read ({error.strerror}); check the file.") from error
    except (ValueError, RecursionError) as error:  # bad JSON and bad encoding are both ValueErrors
        raise DataError(f"The annotations {path} are not valid JSON ({error}); fetch the file again.") from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"The annotations {path} have no list {key!r}; check that this is the right file.")
    return content


def safe_relative(name: object, *, source: Path) -> str:
    """`name` if it is a relative path below its folder, such as "train/a.jpg", in its plainest spelling.

    CsraError for "..", "/x", "C:x" and control characters.
    """
    outside = not isinstance(name, str) or not name or name.startswith("/") or bool(set(name) & set("\\:\0"))
    if not isinstance(name, str) or outside or ".." in PurePosixPath(name).parts:
        raise DataError(f"{source}: the file name {name!r} does not lie inside the image folder; correct the file.")
    if not is_plain(name):
        raise DataError(f"{source}: the file name {name!r} holds characters that no name should; correct the file.")
    return str(PurePosixPath(name))  # one spelling, so that a name that is listed twice is seen
