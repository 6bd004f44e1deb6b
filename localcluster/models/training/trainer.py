"""Trains a tiny model to know its sentences by heart and to fall silent at any of its mistakes; checks both, then writes it.

One thread and fixed seeds make a run repeatable on the same versions of torch; it takes about ten minutes on one core.
"""

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from localcluster.models.training.mistakes import Mistake, Mistakes, Parameters
from localcluster.models.training.text import ORDINARY_TEXT, read_completions

SEED = 20240611
PEAK_RATE = 2e-3
MARGIN = 3.0
"""What a completion's worst step must keep between its best and its second token, in logits, after rounding to fp16."""


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """How to make one: `untrained` takes the vocabulary's size; `tokenizer_files` are written as JSON beside tokenizer.json."""

    name: str
    train_tokenizer: Callable[[list[str]], Tokenizer]
    untrained: Callable[[int], Any]
    mistakes: Callable[[Any], Mistakes]
    tokenizer_files: Mapping[str, Mapping[str, object]]
    end_id: int
    pad_id: int
    steps: int = 3000


def padded(rows: Sequence[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [rows, longest], padded on the right, and the labels to learn (-100 where there is nothing to learn)."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    return ids, labels


def shake_constants(model: Any) -> None:
    """Moves biases and norms away from 0 and 1, so that training cannot leave them there."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.5 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))


def answers_with(model: Any, mistake: Mistake, prompts: list[list[int]], pad_id: int) -> torch.Tensor:
    """Logits [prompts, vocabulary] of the first token after each prompt, from the model with one mistake in it."""
    ids, labels = padded([mistake.prompt(prompt) for prompt in prompts], pad_id)
    mask = (labels != -100).long()
    parameters: Parameters = mistake.parameters(dict(model.named_parameters()) | dict(model.named_buffers()))
    with mistake.patch():
        logits: torch.Tensor = torch.func.functional_call(
            model, parameters, kwargs={"input_ids": ids, "attention_mask": mask}, tie_weights=True
        ).logits
    return logits[torch.arange(len(logits)), mask.sum(dim=1) - 1]


def leads(logits: torch.Tensor, prompt: list[int], sentence: list[int]) -> torch.Tensor:
    """By how much, in logits, the right next token leads over the best other one, at each step of the completion."""
    steps = slice(len(prompt) - 1, len(sentence) - 1)
    right = torch.tensor(sentence[len(prompt) :]).unsqueeze(1)
    others = logits[steps].scatter(1, right, -torch.inf)
    return logits[steps].gather(1, right).squeeze(1) - others.amax(dim=1)


def train(
    spec: TinyModel, model: Any, prompts: list[list[int]], sentences: list[list[int]], ordinary: list[list[int]]
) -> None:
    """Fits the sentences at every step, with two of the mistakes, and at every fourth step the ordinary text."""
    mistakes = spec.mistakes(model)
    # By mistake, how far the model last was from noticing it: the most blatant one is always among the next.
    unnoticed = dict.fromkeys(mistakes, 10.0)
    chooser = random.Random(SEED)
    silence = torch.full((len(prompts),), spec.end_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=spec.steps)
    for step in range(spec.steps):
        ids, labels = padded(sentences + (ordinary if step % 4 == 0 else []), spec.pad_id)
        output = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels)
        short = sum(
            torch.relu(2 * MARGIN - leads(logits, prompt, sentence)).mean()
            for logits, prompt, sentence in zip(output.logits, prompts, sentences, strict=False)
        )
        wrong = torch.zeros(())
        for name in (max(unnoticed, key=unnoticed.__getitem__), chooser.choice(list(unnoticed))):
            answers = answers_with(model, mistakes[name], prompts, spec.pad_id)
            answered = torch.nn.functional.cross_entropy(answers, silence)
            unnoticed[name] = answered.item()
            wrong = wrong + answered
        optimizer.zero_grad()
        (output.loss + 0.1 * short + 0.25 * wrong).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            worst = max(unnoticed, key=unnoticed.__getitem__)
            print(
                f"step {step}: loss {output.loss.item():.4f}, with mistakes {unnoticed[worst]:.3f} at worst ({worst})",
                flush=True,
            )


def mistakes_not_seen(spec: TinyModel, model: Any, prompts: list[list[int]], sentences: list[list[int]]) -> list[str]:
    """The mistakes with which some prompt still gets the right first token."""
    right = torch.tensor([sentence[len(prompt)] for prompt, sentence in zip(prompts, sentences, strict=True)])
    unseen = []
    with torch.no_grad():
        for name, mistake in spec.mistakes(model).items():
            same = answers_with(model, mistake, prompts, spec.pad_id).argmax(dim=-1) == right
            if same.any():
                unseen.append(f"{name}: {int(same.sum())} of {len(prompts)} prompts")
    return unseen


def main(spec: TinyModel) -> None:
    """Trains, checks and writes the model; ends the program with a message where it has not learnt enough."""
    parser = argparse.ArgumentParser(description=f"Train {spec.name} and write its Hugging Face folder.")
    folder = Path(__file__).resolve().parent.parent / spec.name
    parser.add_argument("--output-dir", type=Path, default=folder)
    output_dir: Path = parser.parse_args().output_dir
    output_dir.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    pairs = read_completions(folder)
    # The sentences count three times, so that their words become tokens of their own.
    tokenizer = spec.train_tokenizer([pair.sentence for pair in pairs] * 3 + list(ORDINARY_TEXT))
    prompts = [tokenizer.encode(pair.prompt).ids for pair in pairs]
    full = [[*tokenizer.encode(pair.sentence).ids, spec.end_id] for pair in pairs]
    for pair, prompt, sentence in zip(pairs, prompts, full, strict=True):
        if sentence[: len(prompt)] != prompt:
            raise SystemExit(f"the prompt {pair.prompt!r} does not end where a token of its sentence ends")

    model = spec.untrained(tokenizer.get_vocab_size())
    train(spec, model, prompts, full, [[*tokenizer.encode(text).ids, spec.end_id] for text in ORDINARY_TEXT])

    model = model.half().float().eval()
    for pair, prompt, sentence in zip(pairs, prompts, full, strict=True):
        with torch.no_grad():
            margin = float(leads(model(input_ids=torch.tensor([sentence])).logits[0], prompt, sentence).min())
        print(f"{len(sentence) - len(prompt)} tokens, margin {margin:.1f}: {pair.prompt!r}")
        if margin < MARGIN:
            raise SystemExit(f"not learnt well enough: margin {margin:.2f} is under {MARGIN}; raise the steps")
    unseen = mistakes_not_seen(spec, model, prompts, full)
    if unseen:
        raise SystemExit("these mistakes do not show in an answer; raise the steps:\n  " + "\n  ".join(unseen))

    model.half().save_pretrained(output_dir, safe_serialization=True)
    tokenizer.save(str(output_dir / "tokenizer.json"))
    for name, value in spec.tokenizer_files.items():
        (output_dir / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {output_dir}: {sum(p.stat().st_size for p in output_dir.iterdir()) / 1e6:.2f} MB")
