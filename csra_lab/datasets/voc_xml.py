"""VOC's annotations, one XML file an image: boxes, and the labels that follow from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from csra_lab._io.validation import is_plain
from csra_lab.datasets.dataset import Box
from csra_lab.errors import DataError

_MAX_XML_BYTES = 1 << 20


@dataclass(frozen=True)
class VocBoxes:
    """`box_reader` of a devkit: from an image's id to its boxes, read from `folder`/ID.xml."""

    folder: Path

    def __call__(self, image_id: str) -> list[Box]:
        return read_voc_boxes(self.folder, image_id)

    def size(self, image_id: str) -> tuple[int, int] | None:
        """(width, height) that the annotation states; None where it states none."""
        size = _parse_xml(self.folder / f"{image_id}.xml").find("size")
        if size is None:
            return None
        try:
            width, height = (int(float(size.findtext(side, ""))) for side in ("width", "height"))
        except (ValueError, OverflowError):
            return None
        return (width, height) if width > 0 and height > 0 else None  # some tools write 0 x 0


def read_voc_boxes(annotations: Path, image_id: str) -> list[Box]:
    """The objects in Annotations/ID.xml. Coordinates may be fractions; 1-based inclusive becomes 0-based half-open.

    A file with a DOCTYPE or an ENTITY is refused unread, as is one above 1 MiB.

    Raises:
        CsraError: names the file, and the object that is not as VOC has it.
    """
    path = Path(annotations) / f"{image_id}.xml"
    boxes = []
    for number, item in _objects(path):
        name = (item.findtext("name") or "").strip()
        if len(item.findall("name")) > 1 or len(item.findall("bndbox")) > 1:
            raise DataError(f"{path}: object {number} has two names or two boxes; make two objects of it.")
        try:
            texts = [item.findtext(f"bndbox/{k}", "") for k in ("xmin", "ymin", "xmax", "ymax")]
            if any("_" in text for text in texts):  # which Python takes for a digit's neighbour
                raise ValueError
            xmin, ymin, xmax, ymax = map(float, texts)
        except ValueError as error:
            raise DataError(f"{path}: object {number} lacks a bndbox with four numbers; correct the file.") from error
        inside = all(abs(v) <= 1e6 for v in (xmin, ymin, xmax, ymax))  # of any image; NaN is not
        if not is_plain(name) or not inside or xmax < xmin or ymax < ymin:
            raise DataError(
                f"{path}: object {number} ({name or 'no name'}) has the box {xmin:g} {ymin:g} {xmax:g} {ymax:g}; "
                "it needs a name, xmin <= xmax and ymin <= ymax."
            )
        flags = {k: _flag(item, k, number, path) for k in ("difficult", "truncated", "occluded")}
        boxes.append(Box(name, xmin - 1, ymin - 1, xmax, ymax, **flags))
    return boxes


def read_voc_labels(path: Path) -> dict[str, int]:
    """Class name -> 1 (present) or -1 (only objects marked difficult), of every class that an annotation names.

    Raises:
        CsraError: names the file, and the object that has no name.
    """
    labels: dict[str, int] = {}
    for number, item in _objects(path):
        name = (item.findtext("name") or "").strip()
        if not is_plain(name):
            raise DataError(f"{path}: object {number} has no name; correct the file.")
        target = -1 if _flag(item, "difficult", number, path) else 1
        labels[name] = max(target, labels.get(name, -1))
    return labels


def _objects(path: Path) -> Iterator[tuple[int, Element]]:
    root = _parse_xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path} holds <{root.tag[:40]}> where VOC has <annotation>; check that it is the right file.")
    return enumerate(root.findall("object"), start=1)


def _flag(item: Element, name: str, number: int, path: Path) -> bool:
    value = (item.findtext(name) or "0").strip()
    if value not in ("0", "1"):
        raise DataError(f"{path}: object {number} is {name} {value!r:.40}; it must be 0 or 1.")
    return value == "1"


def _decoded(raw: bytes) -> str:
    """A file that is not UTF-8, in the encoding that it declares, else as latin-1: most often a photographer's name."""
    declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.:-]+)", raw)
    try:
        return raw.decode(declared[1].decode() if declared else "latin-1")
    except (LookupError, UnicodeDecodeError):
        return raw.decode("latin-1")


def _parse_xml(path: Path) -> Element:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_XML_BYTES + 1)
    except OSError as error:
        raise DataError(f"The annotation {path} cannot be read ({error.strerror}); unpack the devkit again.") from error
    if len(raw) > _MAX_XML_BYTES:
        raise DataError(f"The annotation {path} is larger than 1 MiB, which no VOC annotation is; replace it.")
    if b"\0" in raw:
        raise DataError(f"The annotation {path} is not UTF-8 text; save it as UTF-8.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = _decoded(raw)
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)  # what it declares is known by now
    try:
        return defusedxml.ElementTree.fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(f"The annotation {path} holds a DOCTYPE or ENTITY, which is refused; remove it.") from error
    except (ParseError, ValueError) as error:
        raise DataError(f"The annotation {path} is not valid XML ({error}); unpack the devkit again.") from error
