"""From recordings in a bucket to transcripts, whatever dies on the way, on one machine or many.

watch        what stands in `input/` becomes jobs
job          what a job is; jobs: how people and programs see them
supervisor   the loop of `steno run` and `steno worker`, around
pool         the worker processes of this machine
process      how one of them begins: what it is to be, and its model
worker       what it then does, for the queues that it serves
flow         the durable workflows that it runs, made of
recording    the steps of the work on one recording, which use
checkpoints  what is kept in `work/` on the way
activity     how a worker knows what it is doing, and is told to stop
liveness     which workers live; what becomes of the work of the others
database     SQLite or PostgreSQL, where DBOS keeps all this
keys         where things stand in the bucket; record: what stands in `failed/`
batch        lists of recordings, done by N children, also by the clock
again        ended jobs retried or deleted; queue: how much there is to do
events       what happens, as structured logs
"""
