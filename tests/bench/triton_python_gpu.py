"""Measures `triton-python` on an NVIDIA GPU: a 7B-shaped Llama with random fp16 weights, 15 new tokens, against the tutorial's way.

Two halves, for the machine with the GPU may have neither a network nor Triton:

    python -m tests.bench.triton_python_gpu pack DIR     here: what travels, in DIR (tritonserver, its stub, numpy 1.26.4, repositories)
    python -m tests.bench.triton_python_gpu run DIR      there: Python 3.12 with torch, transformers and a GPU; prints the table

The weights are made there. Every server in turn, one at a time, in one run.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.triton_python_load import Measured, measure

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKPOINT = Path("/tmp/llama-7b")
HTTP_PORT = 18280
MAX_TOKENS = 15
PROMPT = "How can you be"
MODEL = "llama7b"
SHAPE: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
    "vocab_size": 32000,
}
WHEELS = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "perf-analyzer==2.60.0")
NOT_LINKED = {"numpy", "numpy.libs", "scipy", "scipy.libs", "sklearn", "pandas", "__pycache__"}
"""Of the machine's packages: built for numpy 2, which this Triton's stub can't have."""


def pack(folder: Path) -> None:
    wheels = folder / "wheels"
    for wheel in WHEELS:
        subprocess.run(
            ["pip3", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
            + [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 28, 31, 34, 35, 38)]
            + ["--platform=manylinux2014_x86_64", "-d", str(wheels), wheel],
            check=True,
        )
    tree = folder / "tree"
    for wheel_file in wheels.glob("*.whl"):
        shutil.unpack_archive(wheel_file, tree, "zip")
    unwanted = [*tree.glob("*.dist-info"), *tree.glob("numpy/**/tests"), *tree.glob("pytriton/tritonserver/caches")]
    stubs = tree / "pytriton" / "tritonserver" / "python_backend_stubs"
    unwanted += [path for path in stubs.iterdir() if path.name != "3.12"]
    for path in unwanted:
        shutil.rmtree(path)
    for name, files in _repositories().items():
        for file, content in files.items():
            target = tree / "repositories" / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    tokenizer = REPOSITORY / "localcluster" / "models" / "tiny-llama"
    (tree / "tokenizer").mkdir(exist_ok=True)
    for path in tokenizer.glob("*token*.json"):
        shutil.copy(path, tree / "tokenizer")
    with tarfile.open(folder / "pack.tar.xz", "w:xz", preset=6) as archive:
        archive.add(tree, ".")
    shutil.rmtree(tree)
    shutil.rmtree(wheels)
    print(f"{folder / 'pack.tar.xz'}: {(folder / 'pack.tar.xz').stat().st_size / 2**20:.1f} MiB")


def _repositories() -> dict[str, dict[str, bytes]]:
    """The model repositories to measure, files by path; the checkpoint is put in where it is made."""
    plain = (Path(__file__).parent / "plain_model.py").read_bytes()
    return {
        "engine": engine_files(gpu=True),
        "plain": {f"{MODEL}/config.pbtxt": plain_config("").encode(), f"{MODEL}/1/model.py": plain},
        "plain-batched": {
            f"{MODEL}/config.pbtxt": plain_config("dynamic_batching { }\nmax_batch_size: 8").encode(),
            f"{MODEL}/1/model.py": plain,
        },
    }


def engine_files(*, gpu: bool) -> dict[str, bytes]:
    """The recipe's own repository of one model, less the checkpoint."""
    from engine_jobs.triton_python.model_config import ServedModel, config_texts
    from engine_jobs.triton_python.repository import SERVED, code_files

    served = ServedModel(
        name=MODEL,
        output_tensor="text",
        instances=16,
        max_batch_size=0,
        dynamic_batching=None,
        gpu=gpu,
        parameters={
            "dtype": "float16" if gpu else "float32",
            "max_length": "512",
            "max_sequences": "16",
            "max_tokens": str(MAX_TOKENS),
        },
    )
    files: dict[str, bytes] = {}
    for name, text in config_texts(served).items():
        files[f"{name}/config.pbtxt"] = text.encode()
        program = "front_model.py" if name == MODEL else "engine_model.py"
        files[f"{name}/1/model.py"] = (SERVED / program).read_bytes()
        files.update({f"{name}/1/{path}": file.read_bytes() for path, file in code_files().items()})
    return files


def plain_config(batching: str, kind: str = "KIND_GPU", checkpoint: Path = CHECKPOINT, dtype: str = "float16") -> str:
    parameters = {"checkpoint": str(checkpoint), "dtype": dtype, "max_tokens": str(MAX_TOKENS)}
    lines = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    return f"""name: "{MODEL}"
backend: "python"
{batching}
input [ {{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "text" data_type: TYPE_STRING dims: [ 1 ] }} ]
instance_group [ {{ kind: {kind} }} ]
""" + "\n".join(lines)


def prepare(folder: Path, tree: Path) -> dict[str, str]:
    """Unpacks, makes the weights and a Python with numpy 1.26.4 beside the machine's torch; returns the servers' environment."""
    with tarfile.open(folder / "pack.tar.xz") as archive:
        archive.extractall(tree, filter="tar")
    triton = tree / "pytriton" / "tritonserver"
    shutil.copy(triton / "python_backend_stubs" / "3.12" / "triton_python_backend_stub", triton / "backends" / "python")
    for program in (triton / "bin" / "tritonserver", triton / "backends" / "python" / "triton_python_backend_stub"):
        program.chmod(0o755)
    venv = tree / "venv"
    base = Path(sys.executable).resolve()
    subprocess.run([str(base), "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = next((venv / "lib").glob("python3*")) / "site-packages"
    import torch

    for path in Path(torch.__file__).parents[1].iterdir():
        if path.name not in NOT_LINKED and not path.name.startswith(("numpy-", "scipy-", "scikit_learn-", "pandas-")):
            (packages / path.name).symlink_to(path)
    for name in ("numpy", "numpy.libs"):
        (packages / name).symlink_to(tree / name)
    # transformers asks for numpy's version by its metadata.
    metadata = packages / "numpy-1.26.4.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    _make_weights(tree)
    version = tree / "repositories" / "engine" / f"{MODEL}_stream" / "1"
    (version / "checkpoint").symlink_to(CHECKPOINT)
    # The pack is made seldom: what is measured is this checkout's code.
    served = REPOSITORY / "engine_jobs" / "triton_python" / "served"
    front = version.parents[1] / MODEL / "1"
    for folder_there, model_py in ((front, "front_model.py"), (version, "engine_model.py")):
        for path in served.glob("*.py"):
            shutil.copy(path, folder_there / "engine_jobs" / "triton_python" / "served")
        shutil.copy(served / model_py, folder_there / "model.py")
    return {
        **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")},
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{tree}/nvidia_pytriton.libs:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }


def _make_weights(tree: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (CHECKPOINT / "config.json").exists():
        return
    started = time.monotonic()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=1, eos_token_id=2))
    model.generation_config.eos_token_id = None
    model.save_pretrained(CHECKPOINT)
    for path in (tree / "tokenizer").iterdir():
        shutil.copy(path, CHECKPOINT)
    torch.set_default_dtype(torch.float32)
    del model
    torch.cuda.empty_cache()
    print(f"weights made in {time.monotonic() - started:.0f} s", flush=True)


@contextmanager
def serving(
    tree: Path, repository: str, environment: dict[str, str], models: Sequence[str], log: Path
) -> Iterator[None]:
    triton = tree / "pytriton" / "tritonserver"
    command = [str(triton / "bin" / "tritonserver"), f"--model-repository={tree / 'repositories' / repository}"]
    command += [
        f"--backend-directory={triton / 'backends'}",
        f"--http-port={HTTP_PORT}",
        f"--grpc-port={HTTP_PORT + 1}",
    ]
    command += [f"--metrics-port={HTTP_PORT + 2}", "--disable-auto-complete-config", "--model-control-mode=explicit"]
    command += [f"--load-model={model}" for model in models]
    started = time.monotonic()
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        while not _ready():
            if server.poll() is not None or time.monotonic() - started > 300:
                raise RuntimeError(f"{repository} did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)
        print(f"{repository}: ready after {time.monotonic() - started:.0f} s", flush=True)
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT}/v2/health/ready", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def run(folder: Path, tree: Path, out: Path, only: Sequence[str], seconds: float) -> None:
    environment = prepare(folder, tree)
    rows: list[tuple[str, dict[int, Measured]]] = []
    titles = {
        "plain": "the tutorial's model.py, no batching",
        "plain-batched": "the same, max_batch_size 8 and dynamic_batching",
        "engine": "triton-python",
    }
    for name in only or titles:
        models = [f"{MODEL}_stream", MODEL] if name == "engine" else [MODEL]
        log = out / f"{name}.log"
        with serving(tree, name, environment, models, log):
            found = {
                concurrency: measure(HTTP_PORT, MODEL, {"text_input": PROMPT}, concurrency, seconds)
                for concurrency in (1, 16)
            }
            for each in found.values():
                print(f"{name} at {each.concurrency}: {each.row()}", flush=True)
            _perf_analyzer(tree, environment, name, out)
            if name == "engine":
                with urllib.request.urlopen(f"http://127.0.0.1:{HTTP_PORT + 2}/metrics") as response:
                    lines = response.read().decode().splitlines()
                print("\n".join(line for line in lines if line.startswith("llm_serving_")), flush=True)
        rows.append((titles[name], found))
    print(table(rows))


def table(rows: Sequence[tuple[str, dict[int, Measured]]]) -> str:
    lines = ["| server | concurrency 1 | concurrency 16 |", "|---|---|---|"]
    lines += [f"| {title} | {found[1].row()} | {found[16].row()} |" for title, found in rows]
    return "\n".join(lines)


def _perf_analyzer(tree: Path, environment: dict[str, str], name: str, out: Path) -> None:
    """The tutorial's own client, as a second opinion."""
    found = [path for path in tree.glob("perf_analyzer*/**/perf_analyzer") if path.is_file()]
    if not found:
        print("perf_analyzer: not in the pack", flush=True)
        return
    program = found[0]
    program.chmod(0o755)
    data = out / "data.json"
    data.write_text(json.dumps({"data": [{"text_input": {"content": [PROMPT], "shape": [1]}}]}))
    for concurrency in (1, 16):
        command = [str(program), "-m", MODEL, "-u", f"127.0.0.1:{HTTP_PORT}", "--input-data", str(data)]
        command += [f"--concurrency-range={concurrency}", "--measurement-interval=5000", "--max-trials=4", "-s", "15"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
        lines = [line for line in done.stdout.splitlines() if line.startswith("Concurrency:")]
        print(f"perf_analyzer {name}: {' '.join(lines) or (done.stdout + done.stderr)[-600:]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=("pack", "run"))
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--only", nargs="*", default=(), help="run: these servers alone")
    parser.add_argument("--tree", type=Path, default=Path("/tmp/triton-python-gpu"), help="run: where to unpack")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "/tmp")), help="run: where logs go")
    parser.add_argument("--seconds", type=float, default=15.0, help="run: length of each measurement")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.folder)
    else:
        run(arguments.folder, arguments.tree, arguments.out, arguments.only, arguments.seconds)


if __name__ == "__main__":
    main()
