from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

USE = """
import sys
from pathlib import Path
from stenopool.audio.vad import SpeechDetector
import stenopool.engines.ctc.openvino
import openvino.tools.ovc
print(sorted(name for name in sys.modules if name.startswith("openvino_telemetry.")))
"""


def test_openvino_tells_nobody_of_its_use(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", USE], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
    assert not (tmp_path / "intel").exists()  # where its identification is kept
