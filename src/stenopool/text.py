"""Text from outside, made fit to be written."""

from __future__ import annotations

import re

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """Text that UTF-8 can encode: each byte of a name that was none (a lone surrogate) is U+FFFD.

    Not every JSON reader takes lone surrogates.
    """
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
