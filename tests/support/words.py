"""Whether a short word stands in a text, where ids and digests stand, too."""

import re


def stands(word: str, text: str) -> bool:
    """Whether `text` has `word` as a word of its own, not as some of the characters that chance gave an id."""
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(word)}(?![0-9A-Za-z])", text) is not None
