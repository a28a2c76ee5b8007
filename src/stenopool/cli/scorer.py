"""`steno data scorer`: an n-gram model of words, built from text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import say

if TYPE_CHECKING:
    from stenopool.decoding.ctc.alphabet import Alphabet

LONGEST_LINE = 1_000_000  # characters


def scorer(
    *,
    texts: Annotated[
        list[Path],
        typer.Argument(
            help="Text files, a sentence a line, or manifests (.jsonl).", metavar="TEXT"
        ),
    ],
    model: Annotated[Path, typer.Option("--model", help="Folder of the CTC model that it is for.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file; by default `scorer.arpa` in that folder."),
    ] = None,
    order: Annotated[int, typer.Option("--order", help="Words of the longest n-grams.")] = 3,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Weight of the scorer beside the sound.")
    ] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="What each word is worth.")] = None,
) -> None:
    """Build the scorer of a CTC model from text: an n-gram model with Kneser-Ney smoothing.

    The text is written in the model's symbols first; what those lack is left out.
    """
    import json
    from dataclasses import asdict

    from stenopool.decoding.ctc.alphabet import Alphabet
    from stenopool.decoding.ctc.kneser_ney import estimated
    from stenopool.decoding.ctc.scorer import ARPA, SETTINGS, Weights
    from stenopool.files import fill_whole, write_whole
    from stenopool.models.wav2vec2 import read_wav2vec2

    shape = read_wav2vec2(model).shape
    alphabet = Alphabet.read(model, shape.vocabulary, shape.blank)
    found = estimated(_sentences(texts, alphabet), order)
    target = output or model / ARPA
    fill_whole(target, lambda file: file.writelines(line.encode() for line in found.arpa()))
    usual = Weights()
    weights = Weights(usual.alpha if alpha is None else alpha, usual.beta if beta is None else beta)
    write_whole(target.with_name(SETTINGS), json.dumps(asdict(weights)) + "\n")
    say(f"{target}: {len(found.probabilities)} n-grams of up to {order} words")


def _sentences(files: list[Path], alphabet: Alphabet) -> Iterator[list[str]]:
    for file in files:
        for line in _lines(file):
            words = alphabet.normalised(line).split()
            if words:
                yield words


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text file, or the texts of a manifest.

    Raises:
        InputError, UsageError: the file cannot be read.
    """
    from stenopool.errors import InputNotFound, UsageError

    if file.suffix == ".jsonl":
        from stenopool.data.sources import read

        yield from (one.text or "" for one in read(file))
        return
    try:
        with file.open(encoding="utf-8-sig") as opened:
            while line := opened.readline(LONGEST_LINE):
                yield line
    except OSError as error:
        raise InputNotFound(f"cannot read `{file}`: {error.strerror}", do="Check it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"`{file}` is not UTF-8", do="Save the text as UTF-8") from error
