"""faster-whisper behind FastAPI, one request at a time: `python peer.py MODEL_FOLDER PORT`.

What people write first, and what speaches does with its usual settings. Runs in an environment of
its own, with `faster-whisper`, `fastapi`, `uvicorn` and `python-multipart`.
"""

import io
import sys
import threading

import uvicorn
from fastapi import FastAPI, Form, UploadFile
from faster_whisper import WhisperModel

app = FastAPI()
model = WhisperModel(sys.argv[1], device="cpu", compute_type="int8")
turn = threading.Lock()


@app.get("/healthz")
def healthz() -> dict[str, str]:
    """It is there."""
    return {}


@app.post("/v1/audio/transcriptions")
def transcriptions(file: UploadFile, language: str = Form("")) -> dict[str, str]:
    """The text of a recording."""
    sound = io.BytesIO(file.file.read())
    with turn:
        segments, _ = model.transcribe(sound, language=language or None)
        return {"text": "".join(segment.text for segment in segments)}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
