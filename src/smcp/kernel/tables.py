"""Tables as comma-separated values (RFC 4180), for programs and for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes a text for a formula by (OWASP, "CSV Injection"); full-width forms are below."""
_WIDE: Final = ("\uff1d", "\uff0b", "\uff0d", "\uff20")


def comma_separated(columns: Sequence[str], rows: Iterable[Sequence[object]], *, end: str = "\r\n") -> str:
    """One line of names, then one a row. None is an empty cell.

    A text that a spreadsheet would compute gets an apostrophe in front; numbers stay what they are.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=end)
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith((*_FORMULA, *_WIDE)):
        return f"'{value}"
    return value
