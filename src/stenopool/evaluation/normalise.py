"""Text as it is compared: without punctuation, case and spelling that nobody hears.

Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", appendix C.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from stenopool.decoding.languages import LANGUAGES, WITHOUT_SPACES
from stenopool.evaluation.extras import check_extras

Normalise = Callable[[str], str]

ENGLISH, BASIC, LETTERS = "whisper-english", "whisper-basic", "whisper-basic-letters"


def normaliser_name(language: str | None) -> str:
    """Which of Whisper's normalisers is for a language.

    Args:
        language: code (`en`, `en-GB`, `pt_BR`) or English name; `None` when it is unknown.

    Returns:
        `whisper-english`; `whisper-basic` for other languages; `whisper-basic-letters` for those
        that are written without spaces, whose letters are compared as words.
    """
    code = _code(language)
    if code == "en":
        return ENGLISH
    return LETTERS if code in WITHOUT_SPACES else BASIC


def normaliser(language: str | None) -> Normalise:
    """Makes texts of a language comparable; words are separated by single spaces.

    Raises:
        UsageError: the packages of evaluation are not installed.
    """
    check_extras(("whisper_normalizer",))
    return _made(normaliser_name(language))


@cache
def _made(name: str) -> Normalise:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    if name == ENGLISH:
        inner = EnglishTextNormalizer()
    else:
        inner = BasicTextNormalizer(split_letters=name == LETTERS)
    return lambda text: " ".join(inner(text).split())


def _code(language: str | None) -> str | None:
    if not language:
        return None
    wanted = language.strip().lower()
    by_name = {name: code for code, name in LANGUAGES.items()}
    return by_name.get(wanted) or wanted.replace("_", "-").partition("-")[0]
