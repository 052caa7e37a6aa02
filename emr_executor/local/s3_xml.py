"""S3's XML: answers are written, requests are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from emr_executor.local.s3_store import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_BODY_MAX = 2 * 1024 * 1024
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Child = tuple[str, "str | int | bool | Sequence[Child] | None"]


def document(name: str, children: Iterable[Child]) -> bytes:
    """One answer. Children are (name, text or children); None is left out."""
    inner = "".join(_element(*child) for child in children)
    return f'{_HEAD}<{name} xmlns="{NAMESPACE}">{inner}</{name}>'.encode()


def error_document(error: S3Error, resource: str) -> bytes:
    """S3's error body, which has no namespace."""
    children: list[Child] = [("Code", error.code), ("Message", error.message), ("Resource", resource)]
    return f"{_HEAD}<Error>{''.join(_element(*child) for child in children)}</Error>".encode()


def timestamp(epoch_s: float) -> str:
    """ISO 8601 with milliseconds, as S3 writes it."""
    moment = datetime.fromtimestamp(epoch_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def read(body: bytes) -> ET.Element:
    """The root of a request's XML. Raises S3Error MalformedXML."""
    # Declarations (of entities) are refused, because nothing here needs one.
    if len(body) > _BODY_MAX or b"<!" in body:
        raise S3Error("MalformedXML", "The XML you provided was not well-formed", status=400)
    try:
        return ET.fromstring(body)  # noqa: S314  (no declaration, so no entity)
    except (ET.ParseError, LookupError, ValueError):  # the latter two of an encoding that is declared
        raise S3Error("MalformedXML", "The XML you provided was not well-formed", status=400) from None


def elements(root: ET.Element, name: str) -> list[ET.Element]:
    """All elements with this name, in order, whatever their namespace."""
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == name]


def texts(root: ET.Element, name: str) -> list[str]:
    """The texts of all elements with this name, in order."""
    return [element.text or "" for element in elements(root, name)]


def members(element: ET.Element) -> dict[str, str]:
    """The texts of an element's children, by name."""
    return {child.tag.rpartition("}")[2]: child.text or "" for child in element}


def _element(name: str, value: str | int | bool | Sequence[Child] | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"<{name}>{str(value).lower()}</{name}>"
    if isinstance(value, str | int):
        text = _NO_XML.sub("\ufffd", str(value))
        return f"<{name}>{escape(text)}</{name}>"
    return f"<{name}>{''.join(_element(*child) for child in value)}</{name}>"
