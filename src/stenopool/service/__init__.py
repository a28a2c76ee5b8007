"""Endpoints over the worker processes of the pipeline: HTTP and WebSocket.

app        all of it put together
engines    requests on their way to a worker process: limits, and who is next
uploads    bodies become files, whatever their size
openai     /v1/audio/…, /v1/models as OpenAI's clients expect them
answers    a transcript in the formats of these endpoints
problems   errors as HTTP answers
"""
