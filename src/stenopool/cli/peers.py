"""Other projects beside ours: what `bench` and `evaluate` share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from stenopool.cli.console import say
from stenopool.decoding.languages import AUTO
from stenopool.errors import UsageError

if TYPE_CHECKING:
    from stenopool.data import Recording

EVERY = "all"

Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peers",
        help="Other projects, with commas between: `faster-whisper`, `faster-whisper-batched`, "
        "`whisper.cpp`, `openvino-genai`, `transformers`, `openai-whisper`; `all` are those that "
        "are installed. With settings, as in `faster-whisper-batched:beam=1,batch=16`, it stands "
        "in a `--peers` of its own.",
    ),
]


def orders(peers: Sequence[str], *, quiet: bool) -> list[str]:
    """The peers that are asked for, each once; refuses what is unknown or not installed."""
    from stenopool.evaluation.peers import PEERS, Order

    found: list[str] = []
    for given in peers:
        for name in [given] if ":" in given else filter(None, given.split(",")):
            if name != EVERY:
                Order.of(name).check()
                found.append(name)
                continue
            found += [one for one, peer in PEERS.items() if peer.installed]
            missing = [one for one, peer in PEERS.items() if not peer.installed]
            if missing and not quiet:
                say(f"not installed, left out: {', '.join(missing)}")
    return list(dict.fromkeys(found))


def language_of(chosen: str, recordings: Iterable[Recording]) -> str:
    """The one that is given, or that all recordings name: peers must be told the same as we."""
    from stenopool.decoding.languages import language_code

    if chosen != AUTO:
        return chosen
    only, *others = {one.language for one in recordings} or {None}
    if others or not only:
        raise UsageError(
            "the recordings do not all name the same language",
            do="Say what is spoken, such as `--language en`",
        )
    return language_code(only)
