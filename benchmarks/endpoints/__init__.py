"""Measures `steno serve` with many clients: `python -m benchmarks.endpoints --help`.

    load      clients that send clips one after the other, beside the same engine offline and a
              server that transcribes one request at a time with faster-whisper
    realtime  streams of speech in real time: how long after they were spoken words are final
    cold      from a server without a model to the first text

Needs the extra `dev`, and `soundfile`. The server is `steno serve` in a process of its own; the
clients speak to it over the loopback interface.
"""
