"""The command lines of TensorRT-LLM's own programs, as argparse parsers made from the flags of the version stood in for."""

import argparse
import os
from collections.abc import Mapping
from typing import Any, Final

from engine_jobs.tensorrt_llm.flags import ON_OFF, Flag, Table, accepted

VERSION_VARIABLE: Final = "TRTLLM_STAND_IN_VERSION"
DEFAULT_VERSION: Final = "0.17.0"
STAND_IN: Final = "llm-serving's CPU stand-in of TensorRT-LLM"


def stood_in_version() -> str:
    """The version of TensorRT-LLM that the commands stand in for: the image's choice."""
    return os.environ.get(VERSION_VARIABLE, DEFAULT_VERSION)


def command_parser(program: str, table: Table, does: str) -> argparse.ArgumentParser:
    """Takes every flag of the real command, by its whole name; one that is not given has the value None, or False for a
    switch."""
    version = stood_in_version()
    parser = argparse.ArgumentParser(
        prog=program, description=f"{STAND_IN} {version}: {does}", allow_abbrev=False, argument_default=None
    )
    for flag in accepted(table, version).values():
        parser.add_argument(f"--{flag.name}", **_argument(flag))
    return parser


def given(values: Mapping[str, Any]) -> set[str]:
    """The names of the flags that are on the command line."""
    return {name for name, value in values.items() if value is not None and value is not False}


def _argument(flag: Flag) -> dict[str, Any]:
    match flag.kind:
        case "switch":
            return {"action": "store_true"}
        case "onoff":
            return {"choices": ON_OFF}
        case "choice":
            return {"choices": flag.choices}
        case "list":
            return {"nargs": "+", "metavar": "WORD"}
        case _:
            values = {"int": int, "float": float}.get(flag.kind, str)
            return {"type": values, "metavar": flag.kind.upper()}
