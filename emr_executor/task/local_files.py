"""Which of a task's arguments name files on this host, and where those files are. Runs in the task runner."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from emr_executor.errors import StagingFailed
from emr_executor.task.messages import LocalFile

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_GLOB = re.compile(r"[*?\[]")


class LocalFiles:
    """Collects the local files of one step; ``files`` holds each argument's share in order.

    folders: where relative paths are looked up, in order
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._mark = uuid4().hex
        self.files: list[LocalFile] = []

    def one(self, argument: str, value: str) -> str:
        """``value`` with a local path replaced by its token; other locations stay. Raises StagingFailed."""
        location, alias = self._split(value)
        if location is None:
            return value
        return self._take(argument, self._find(argument, location)) + alias

    def many(self, argument: str, value: str) -> str:
        """The same for a comma list, each entry perhaps with ``#alias`` or wildcards as Spark takes them."""
        entries = [entry.strip() for entry in value.split(",") if entry.strip()]
        return ",".join(found for entry in entries for found in self._entry(argument, entry))

    def existing(self, argument: str, value: str) -> str | None:
        """The token of a local file, or None when ``value`` is no file on this host."""
        location, _ = self._split(value)
        path = None if location is None else self._look(location)
        return None if path is None or not path.is_file() else self._take(argument, path)

    def read(self, argument: str, value: str) -> str | None:
        """The text of a local file; None for a location elsewhere. Raises StagingFailed."""
        location, _ = self._split(value)
        if location is None:
            return None
        path = self._find(argument, location)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StagingFailed(f"{argument}: {path} cannot be read as text: {error}") from error

    def _entry(self, argument: str, entry: str) -> list[str]:
        location, alias = self._split(entry)
        if location is not None and _GLOB.search(location) and self._look(location) is None:
            matches = [Path(match) for match in self._glob(location)]
            if matches:
                return [self._take(argument, match) + alias for match in matches if match.is_file()]
        return [self.one(argument, entry)]

    @staticmethod
    def _split(value: str) -> tuple[str | None, str]:
        """(local path or None, ``#alias``); ``file:`` URIs are local, every other scheme is not."""
        location, mark, alias = value.partition("#")
        if location.startswith("file:"):
            location = unquote(urlsplit(location).path)
        elif not location or _SCHEME.match(location):
            return None, ""
        return location, mark + alias

    def _candidates(self, location: str) -> list[Path]:
        path = Path(location)
        return [path] if path.is_absolute() else [Path(folder) / path for folder in self._folders]

    def _look(self, location: str) -> Path | None:
        return next((path for path in self._candidates(location) if path.exists()), None)

    def _glob(self, location: str) -> list[str]:
        for candidate in self._candidates(location):
            # Path.glob takes no absolute pattern.
            if matches := sorted(glob.glob(str(candidate))):  # noqa: PTH207
                return matches
        return []

    def _find(self, argument: str, location: str) -> Path:
        path = self._look(location)
        if path is None:
            tried = ", ".join(str(candidate) for candidate in self._candidates(location))
            raise StagingFailed(
                f"{argument}: {location} is not on this host (looked at {tried});"
                " name an existing file, an s3:// location, or local:/path for a file of the cluster's own"
            )
        if not path.is_file():
            raise StagingFailed(f"{argument}: {path} is no file; name a file, or zip the folder")
        return path

    def _take(self, argument: str, path: Path) -> str:
        resolved = str(path.absolute())
        for file in self.files:
            if file.path == resolved:
                return file.token
        file = LocalFile(token=f"@emr-{self._mark}-{len(self.files)}@", argument=argument, path=resolved)
        self.files.append(file)
        return file.token
