"""The JSON schema of a stack file, from the settings model, for editors (yaml-language-server)."""

from typing import Any

from stacks.settings import PROJECT, Settings


def stack_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `Pulumi.<stack>.yaml`. A secret config is what Pulumi writes: `{secure: …}`."""
    settings = Settings.model_json_schema(by_alias=True)
    definitions = settings.pop("$defs")
    secret = {"type": "object", "properties": {"secure": {"type": "string"}}, "required": ["secure"]}
    keys = {
        f"{PROJECT}:{key}": value
        if "$ref" in value or "type" in value
        else {**secret, "description": value["description"]}
        for key, value in settings["properties"].items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stack file of llm-serving",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": keys,
                "required": [f"{PROJECT}:{key}" for key in settings["required"]],
                "patternProperties": {rf"^(?!{PROJECT}:)[\w-]+:": {}},
                "additionalProperties": False,
            },
            "encryptionsalt": {"type": "string"},
            "secretsprovider": {"type": "string"},
            "encryptedkey": {"type": "string"},
        },
        "required": ["config"],
        "additionalProperties": False,
        "$defs": definitions,
    }
