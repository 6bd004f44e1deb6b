"""The tutorial's measurements in their own form on a CPU: no batching, dynamic batching, instances; and `triton-python` in flight.

    python -m tests.bench.triton_python_cpu --python VENV/bin/python3     a Python 3.11 with torch, transformers and numpy 1.26.4

«Deploying Hugging Face Transformer Models in Triton» measures falcon-7b on an A6000: 21.4, 53.7 (max_batch_size 8, dynamic_batching)
and 71.9 infer/s (batches of 16, 3 instances). Here a tiny Llama stands in for the 7B model, so only the ratios say anything.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import triton_python_gpu as bench
from tests.bench.triton_python_load import Measured, measure
from tests.triton.server import triton_home

CONCURRENCY = 16
CHECKPOINT = bench.REPOSITORY / "localcluster" / "models" / "tiny-llama"
BODY: dict[str, object] = {"text_input": "What is ML?"}
TUTORIAL = (21.3841, 53.6549, 71.944)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="the servers' Python")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.python, arguments.seconds)


def run(folder: Path, python: Path, seconds: float) -> None:
    home = triton_home()
    environment = _environment(python, home)
    (folder / "pytriton").symlink_to(home / "pytriton")
    plain = (Path(bench.__file__).parent / "plain_model.py").read_bytes()
    batched = "dynamic_batching { }\nmax_batch_size: "
    cases: dict[str, tuple[str, dict[str, bytes], Sequence[str]]] = {
        "none": ("the tutorial's model.py, no batching", _plain(plain, "", 1), [bench.MODEL]),
        "dynamic": ("max_batch_size 8, dynamic_batching", _plain(plain, f"{batched}8", 1), [bench.MODEL]),
        "instances": (
            "max_batch_size 16, dynamic_batching, 3 instances",
            _plain(plain, f"{batched}16", 3),
            [bench.MODEL],
        ),
        "engine": ("triton-python, in flight", bench.engine_files(gpu=False), [f"{bench.MODEL}_stream", bench.MODEL]),
    }
    found: dict[str, tuple[str, Measured]] = {}
    for name, (title, files, models) in cases.items():
        for path, content in files.items():
            target = folder / "repositories" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if name == "engine":
            shutil.copytree(CHECKPOINT, folder / "repositories" / name / f"{bench.MODEL}_stream" / "1" / "checkpoint")
        with bench.serving(folder, name, environment, models, folder / f"{name}.log"):
            found[name] = title, measure(bench.HTTP_PORT, bench.MODEL, BODY, CONCURRENCY, seconds)
        print(f"{title}: {found[name][1].row()}", flush=True)
    print(table(found))


def table(found: dict[str, tuple[str, Measured]]) -> str:
    lines = ["| server | concurrency 16 | times no batching | the tutorial's times |", "|---|---|---|---|"]
    first = found["none"][1].per_second
    theirs = {
        "none": "1",
        "dynamic": f"{TUTORIAL[1] / TUTORIAL[0]:.1f}",
        "instances": f"{TUTORIAL[2] / TUTORIAL[0]:.1f}",
    }
    for name, (title, measured) in found.items():
        lines.append(f"| {title} | {measured.row()} | {measured.per_second / first:.1f} | {theirs.get(name, '')} |")
    return "\n".join(lines)


def _plain(program: bytes, batching: str, instances: int) -> dict[str, bytes]:
    config = bench.plain_config(batching, f"KIND_CPU count: {instances}", CHECKPOINT, "float32")
    return {f"{bench.MODEL}/config.pbtxt": config.encode(), f"{bench.MODEL}/1/model.py": program}


def _environment(python: Path, home: Path) -> dict[str, str]:
    """The stub takes its Python from PATH, and that Python's own library from beside it."""
    library = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **kept,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{library}:{home / 'nvidia_pytriton.libs'}",
        "OMP_NUM_THREADS": str(os.cpu_count() or 1),
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
    }


if __name__ == "__main__":
    main()
