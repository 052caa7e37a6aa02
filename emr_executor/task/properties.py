"""Java properties files, as Spark reads them for ``--properties-file``."""

from __future__ import annotations

import re

_ENTRY = re.compile(r"(?P<key>(?:\\.|[^\\=:\s])+)\s*[=:]?\s*(?P<value>.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def properties_of(text: str) -> dict[str, str]:
    """The entries of a properties file (java.util.Properties, load), values stripped as Spark strips them."""
    entries = {}
    for line in _logical_lines(text):
        if match := _ENTRY.fullmatch(line):
            entries[_plain(match["key"])] = _plain(match["value"]).strip()
    return entries


def _logical_lines(text: str) -> list[str]:
    """Lines without comments and blanks, those that end in an odd number of backslashes joined."""
    lines: list[str] = []
    joined: str | None = None
    for raw in text.splitlines():
        line = raw.lstrip()
        if joined is None and (not line or line[0] in "#!"):
            continue
        line = (joined or "") + line
        backslashes = len(line) - len(line.rstrip("\\"))
        joined = line[:-1] if backslashes % 2 else None
        if joined is None:
            lines.append(line)
    return lines if joined is None else [*lines, joined]


def _plain(text: str) -> str:
    return _ESCAPE.sub(_unescape, text)


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _NAMED.get(code, code)
