"""Column types that give back on SQLite and PostgreSQL exactly what was put in."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import DateTime, Dialect, Text
from sqlalchemy.types import TypeDecorator


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime in, the same moment in UTC out. A naive one is refused.

    SQLite keeps no time zone: it stores UTC in a fixed format whose text order is the order of time.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse what has no time zone; UTC for the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                f"a time without a time zone cannot be stored: {value!r}; use aware UTC datetimes"
            )
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The same moment, aware, in UTC, whatever the session's time zone."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text of other programs (error messages, console input) that any database can hold.

    PostgreSQL refuses NUL characters, and neither driver encodes a lone surrogate: both are replaced, since
    no message is worth a failed transaction.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The text with what cannot be stored replaced by ``?`` or U+FFFD."""
        del dialect
        if value is None:
            return None
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
