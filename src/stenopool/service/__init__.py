"""Endpoints over the worker processes of the pipeline: HTTP and WebSocket.

app        all of it put together
engines    requests on their way to a worker process: limits, and who is next
uploads    bodies become files, whatever their size
openai     /v1/audio/…, /v1/models as OpenAI's clients expect them
answers    a transcript in the formats of these endpoints
sagemaker  /ping, /invocations, /endpoints/… as SageMaker and its clients expect them
invocation what comes with an invocation
functions  a user's `inference.py` in a process of its own, which is `inference`
jobs       /v1/jobs; `asking` reads what is asked for, `intake` takes recordings in
submissions whose jobs they are, and how far on their way
webhooks   whoever wants to know is told that a job has ended
remote     other people's servers, and never one of the internal network
guard      what stands before every endpoint; `wire` is before that
problems   errors as HTTP answers
"""
