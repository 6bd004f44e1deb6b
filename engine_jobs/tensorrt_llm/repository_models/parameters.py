"""The string parameters of a model's config.pbtxt, where a template's variable may have been left unfilled."""

import json
from collections.abc import Mapping

from engine_jobs.errors import UserError

TRUE = ("true", "t", "1", "yes", "y")
FALSE = ("false", "f", "0", "no", "n")


def read_parameters(model_config: str) -> dict[str, str]:
    """The parameters of a model configuration (JSON, as Triton gives it); what is empty or an unfilled `${…}` is left out."""
    parameters = json.loads(model_config).get("parameters", {})
    values = {name: str(value.get("string_value", "")) for name, value in parameters.items()}
    return {name: value for name, value in values.items() if value and not value.startswith("${")}


def flag(parameters: Mapping[str, str], name: str, default: bool) -> bool:
    """A parameter that is true or false. Raises UserError for any other word."""
    value = parameters.get(name)
    if value is None:
        return default
    if value.lower() not in (*TRUE, *FALSE):
        raise UserError(f"parameter {name} is {value!r}: write true or false")
    return value.lower() in TRUE
