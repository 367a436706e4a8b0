"""The peers' own interpreter in .peers, with what peers-requirements.txt pins, and what they need made of a
checkpoint: `python -m benches.environment` installs the first.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What is made of a checkpoint before a contender can read it: the folder, and the module that makes it. In
# this order, for the second starts from the first.
MADE_BY = {"onnx": "export_onnx", "onnx-int8": "quantize_onnx", "openvino": "export_openvino"}


def install() -> Path:
    """The interpreter, installed where it is not there or was made for other pins."""
    directory, requirements = ROOT / ".peers", ROOT / "benches" / "peers-requirements.txt"
    python, installed = directory / "bin" / "python", directory / "installed.txt"
    if not installed.is_file() or installed.read_text() != requirements.read_text():
        print(f"installing the peers in {directory}: a few GB", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
        installed.write_text(requirements.read_text())
    return python


def prepare(checkpoint: Path, python: Path, folders: set[str]) -> None:
    """Makes those of the folders that the checkpoint does not have yet."""
    if "onnx-int8" in folders:
        folders = folders | {"onnx"}
    for folder, module in MADE_BY.items():
        if folder in folders and not (checkpoint / folder).is_dir():
            print(f"  making {checkpoint.name}/{folder} ...", file=sys.stderr)
            command = [str(python), "-W", "ignore", "-m", f"benches.{module}", str(checkpoint)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    install()
