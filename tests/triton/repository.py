"""A model repository of the text models around the parrot, its configurations as short as Triton takes them."""

import shutil
from pathlib import Path

from engine_jobs.tensorrt_llm.repository_models import version_files
from localcluster.paths import REPOSITORY

PARROT = Path(__file__).parent / "parrot" / "model.py"

Inputs = tuple[tuple[str, str, str, str, bool], ...]
"""Outer name, inner name, type, dims, optional."""

TO_PREPROCESSING: Inputs = (
    ("text_input", "QUERY", "STRING", "[1]", False),
    ("max_tokens", "REQUEST_OUTPUT_LEN", "INT32", "[1]", False),
    ("bad_words", "BAD_WORDS_DICT", "STRING", "[-1]", True),
    ("stop_words", "STOP_WORDS_DICT", "STRING", "[-1]", True),
    ("end_id", "END_ID", "INT32", "[1]", True),
    ("pad_id", "PAD_ID", "INT32", "[1]", True),
)
TO_ENGINE: Inputs = (
    ("stream", "streaming", "BOOL", "[1]", True),
    ("min_length", "min_length", "INT32", "[1]", True),
    ("repetition_penalty", "repetition_penalty", "FP32", "[1]", True),
)
PREPARED = (
    ("INPUT_ID", "input_ids", "[-1]"),
    ("REQUEST_INPUT_LEN", "input_lengths", "[1]"),
    ("REQUEST_OUTPUT_LEN", "request_output_len", "[1]"),
    ("BAD_WORDS_IDS", "bad_words_list", "[2, -1]"),
    ("STOP_WORDS_IDS", "stop_words_list", "[2, -1]"),
    ("OUT_END_ID", "end_id", "[1]"),
    ("OUT_PAD_ID", "pad_id", "[1]"),
)


def _tensor(kind: str, name: str, data_type: str, dims: str, optional: bool = False) -> str:
    extra = " optional: true" if optional else ""
    return f'{kind} {{ name: "{name}" data_type: TYPE_{data_type} dims: {dims}{extra} }}'


def _parameters(**values: str) -> list[str]:
    return [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()]


def write_repository(
    folder: Path,
    tokenizer: Path,
    *,
    decoupled: bool,
    skip: int,
    engine_dir: Path | None = None,
    accumulate: bool = False,
    milliseconds: int = 0,
) -> Path:
    """preprocessing, postprocessing, tensorrt_llm (the parrot), tensorrt_llm_bls and the ensemble."""
    policy = f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}"
    shared = ["max_batch_size: 4"]
    tokens = _parameters(tokenizer_dir=str(tokenizer), add_special_tokens="${add_special_tokens}")
    texts = [_tensor("input", each[0], *each[2:]) for each in (*TO_PREPROCESSING, *TO_ENGINE)]
    answers = [_tensor("output", "text_output", "STRING", "[-1]"), _tensor("output", "cum_log_probs", "FP32", "[-1]")]
    configs = {
        "preprocessing": [
            'backend: "python"',
            *(_tensor("input", *each[1:]) for each in TO_PREPROCESSING),
            *(_tensor("output", name, "INT32", dims) for name, _, dims in PREPARED),
            *tokens,
            *_parameters(gpt_model_path=str(engine_dir) if engine_dir else "${engine_dir}"),
        ],
        "postprocessing": [
            'backend: "python"',
            _tensor("input", "TOKENS_BATCH", "INT32", "[-1, -1]"),
            _tensor("input", "SEQUENCE_LENGTH", "INT32", "[-1]"),
            _tensor("output", "OUTPUT", "STRING", "[-1]"),
            *tokens,
        ],
        "tensorrt_llm": [
            'backend: "python"',
            policy,
            *(_tensor("input", name, "INT32", dims, optional=name != "input_lengths") for _, name, dims in PREPARED),
            *(_tensor("input", *each[1:]) for each in TO_ENGINE),
            _tensor("input", "stop", "BOOL", "[1]", optional=True),
            _tensor("output", "output_ids", "INT32", "[-1, -1]"),
            _tensor("output", "sequence_length", "INT32", "[-1]"),
            _tensor("output", "cum_log_probs", "FP32", "[-1]"),
            *_parameters(skip=str(skip), milliseconds=str(milliseconds)),
        ],
        "tensorrt_llm_bls": [
            'backend: "python"',
            policy,
            *texts,
            *answers,
            *_parameters(accumulate_tokens=str(accumulate), tensorrt_llm_model_name="${tensorrt_llm_model_name}"),
        ],
        "ensemble": ['platform: "ensemble"', *texts, *answers, _steps()],
    }
    for model, lines in configs.items():
        version = folder / model / "1"
        version.mkdir(parents=True)
        instances = [] if model == "ensemble" else ["instance_group { count: 1 kind: KIND_CPU }"]
        (folder / model / "config.pbtxt").write_text(
            "\n".join([f'name: "{model}"', *shared, *lines, *instances]) + "\n"
        )
        if model in ("tensorrt_llm", "ensemble"):
            continue
        for target, source in version_files(model).items():
            (version / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / source, version / target)
    shutil.copyfile(PARROT, folder / "tensorrt_llm" / "1" / "model.py")
    return folder


def _steps() -> str:
    def step(model: str, inputs: list[tuple[str, str]], outputs: list[tuple[str, str]]) -> str:
        maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs]
        maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs]
        return f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'

    steps = (
        step(
            "preprocessing",
            [(inner, outer) for outer, inner, *_ in TO_PREPROCESSING],
            [(name, f"_{name}") for name, *_ in PREPARED],
        ),
        step(
            "tensorrt_llm",
            [(inner, f"_{name}") for name, inner, _ in PREPARED] + [(inner, outer) for outer, inner, *_ in TO_ENGINE],
            [("output_ids", "_TOKENS"), ("sequence_length", "_LENGTH"), ("cum_log_probs", "cum_log_probs")],
        ),
        step(
            "postprocessing", [("TOKENS_BATCH", "_TOKENS"), ("SEQUENCE_LENGTH", "_LENGTH")], [("OUTPUT", "text_output")]
        ),
    )
    return f"ensemble_scheduling {{ {' '.join(steps)} }}"
