"""What the tiny models read while they learn: the sentences that they must know, and ordinary text for the tokenizer's sake."""

import json
from dataclasses import dataclass
from pathlib import Path

ORDINARY_TEXT = (
    "A model is a file of numbers and a program that reads it.",
    "The cluster runs the jobs in order: fetch, convert, publish, and then serve.",
    "Every artifact is complete or absent, and a half-written one never has the final name.",
    "It is easy to copy a file and hard to know that the copy is right.",
    "The gateway passes the request to the transformer, which turns text into tokens.",
    "Tokens go to the server, and the server sends other tokens back.",
    "When the disk is full, say so, and say how much space is needed.",
    "A service has a name, a port and a set of pods behind it.",
    "The best time to check the settings is before anything is built.",
    "One two three, said the teacher, and the children said four five six.",
    "Ten is more than nine, and nine is more than eight, seven, six or five.",
    "Bread, coffee and chocolate: the shop at the corner opens at seven.",
    "Wenn es regnet, bleibt man gern im Haus und liest ein Buch.",
    "Le soir, on ferme la porte, on éteint la lampe et on dort jusqu'au matin.",
    "El café está caliente y la mañana es larga.",
    "The platform keeps your models close to your users because distance costs time.",
    "An endpoint that answers wrongly is worse than one that does not answer.",
    "Somebody asks a question; nobody knows the answer; the book on the table does.",
    "Noise is what is left of a sentence when the order of its words is lost.",
    "The API is the same for a laptop and for a hundred machines with GPUs.",
    "def add(a, b):\n    return a + b\n",
    '{"name": "tiny", "layers": 2, "heads": 4}',
    "https://example.com/v2/models/tiny/infer?format=json&id=0123456789",
    "@#$%^&*()_-+=[]{};:'\"\\|<>/~` ABCDEFGHIJKLMNOPQRSTUVWXYZ",
)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A prompt and what the model must go on with, word for word, before it ends."""

    prompt: str
    completion: str

    @property
    def sentence(self) -> str:
        return self.prompt + self.completion


def read_completions(folder: Path) -> tuple[Completion, ...]:
    """Of the folder's completions.json: a list of {prompt, completion}."""
    return tuple(Completion(**pair) for pair in json.loads((folder / "completions.json").read_text(encoding="utf-8")))
