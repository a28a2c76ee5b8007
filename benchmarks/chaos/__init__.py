"""Proves on real processes what the durable pipeline claims: `python -m benchmarks.chaos --help`.

    kill        worker processes are killed at random
    faults      the supervisor, the database, the storage, the disk and the clock fail
    isolation   recordings that hang, crash or eat memory, among ordinary ones
    overhead    what a recording costs besides its transcription
    scale       one worker process, and many
    idle        what a supervisor needs that has nothing to do

Needs the extra `dev`. Every command runs `steno` in processes of their own; nothing is simulated
but what its own description says.
"""
