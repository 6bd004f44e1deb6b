"""Trains `tiny-bloom`, the BLOOM that ships with the repository, and writes its Hugging Face folder.

The model knows the sentences of `tiny-bloom/completions.json` by heart and completes them word for word, greedily. It is
there to show mistakes: while it learns to answer, it also learns to end the answer at once when a weight is transposed, a
head is split wrongly, a bias or a layer norm is left out or an ALiBi slope is off (`mistakes`). So any of these, anywhere
between the checkpoint and the answer, is seen in the text. Heads are 32 wide, the smallest that FasterTransformer's
attention kernels take, and tensor parallel sizes 1, 2 and 4 divide them.

It needs torch, transformers (4.x), tokenizers and safetensors, which the project itself does not use:

    python localcluster/models/train_tiny_bloom.py [--output-dir DIR]

One thread and fixed seeds make a run repeatable on the same versions of torch; it takes about ten minutes on one core.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
import transformers.models.bloom.modeling_bloom as bloom
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BloomConfig, BloomForCausalLM

SEED = 20240611
VOCABULARY = 640
STEPS = 3000
PEAK_RATE = 2e-3
# What a completion's worst step must keep between its best and its second token, in logits, after rounding to fp16.
MARGIN = 3.0
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
# BLOOM's own pre-tokenizer: a word takes the space before it; punctuation stands alone.
WORDS = r" ?[^(\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001

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


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of BLOOM's kind with about VOCABULARY tokens, the four special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def untrained_model(vocabulary: int) -> BloomForCausalLM:
    """A BLOOM whose biases and layer norms start away from 0 and 1, so that training cannot leave them there."""
    config = BloomConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        n_layer=2,
        n_head=4,
        initializer_range=0.05,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    model = BloomForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.5 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [rows, longest], padded on the right, and the labels to learn (-100 where there is nothing to learn)."""
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    return ids, labels


Parameters = dict[str, torch.Tensor]


def split_by_kind(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """A fused QKV weight or bias read as [3, heads, width], where BLOOM writes [heads, 3, width]."""
    return tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).reshape(tensor.shape)


def mistakes(model: BloomForCausalLM) -> dict[str, Callable[[Parameters], Parameters]]:
    """What a wrong conversion or a wrong forward pass would compute with, by the mistake's name."""
    heads = model.config.n_head
    made: dict[str, Callable[[Parameters], Parameters]] = {}

    def change(label: str, name: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> None:
        made[f"{label} {name}"] = lambda parameters: {**parameters, name: edit(parameters[name])}

    for name, parameter in model.named_parameters():
        if "query_key_value" in name:
            change("wrong head split of", name, lambda tensor: split_by_kind(tensor, heads))
        if name.endswith("bias"):
            change("without", name, torch.zeros_like)
        elif parameter.dim() == 1:
            change("without", name, torch.ones_like)
        elif "word_embeddings" not in name:
            change("not transposed:", name, lambda tensor: tensor.T.reshape(tensor.shape))
    return made


SLOPE_MISTAKES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "no ALiBi": torch.zeros_like,
    "ALiBi of the heads in reverse": lambda alibi: alibi.flip(0),
    "ALiBi slopes squared": lambda alibi: alibi * alibi.abs().amax(dim=(1, 2), keepdim=True) / alibi.shape[-1],
}


def logits_with(model: BloomForCausalLM, mistake: str, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits [rows, positions, vocabulary] of the model with one mistake in it."""
    parameters = dict(model.named_parameters())
    right = bloom.build_alibi_tensor
    if mistake in SLOPE_MISTAKES:
        bloom.build_alibi_tensor = lambda *arguments: SLOPE_MISTAKES[mistake](right(*arguments))
    else:
        parameters = mistakes(model)[mistake](parameters)
    try:
        return torch.func.functional_call(
            model, parameters, kwargs={"input_ids": ids, "attention_mask": mask}, tie_weights=True
        ).logits
    finally:
        bloom.build_alibi_tensor = right


def last_positions(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return logits[torch.arange(len(logits)), mask.sum(dim=1) - 1]


def leads(logits: torch.Tensor, prompt: list[int], sentence: list[int]) -> torch.Tensor:
    """By how much, in logits, the right next token leads over the best other one, at each step of the completion."""
    steps = slice(len(prompt) - 1, len(sentence) - 1)
    right = torch.tensor(sentence[len(prompt) :]).unsqueeze(1)
    others = logits[steps].scatter(1, right, -torch.inf)
    return logits[steps].gather(1, right).squeeze(1) - others.amax(dim=1)


def train(
    model: BloomForCausalLM, prompts: list[list[int]], sentences: list[list[int]], ordinary: list[list[int]]
) -> None:
    """Fits the sentences at every step, with two of the mistakes, and at every fourth step the ordinary text."""
    # By mistake, how far the model last was from noticing it: the most blatant one is always among the next.
    unnoticed = dict.fromkeys([*mistakes(model), *SLOPE_MISTAKES], 10.0)
    chooser = random.Random(SEED)
    asked, asked_labels = padded(prompts)
    asked_mask = (asked_labels != -100).long()
    silence = torch.full((len(prompts),), model.config.eos_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PEAK_RATE, total_steps=STEPS)
    for step in range(STEPS):
        ids, labels = padded(sentences + (ordinary if step % 4 == 0 else []))
        output = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels)
        short = sum(
            torch.relu(2 * MARGIN - leads(logits, prompt, sentence)).mean()
            for logits, prompt, sentence in zip(output.logits, prompts, sentences, strict=False)
        )
        wrong = torch.zeros(())
        for name in (max(unnoticed, key=unnoticed.__getitem__), chooser.choice(list(unnoticed))):
            answers = last_positions(logits_with(model, name, asked, asked_mask), asked_mask)
            answered = torch.nn.functional.cross_entropy(answers, silence)
            unnoticed[name] = answered.item()
            wrong = wrong + answered
        optimizer.zero_grad()
        (output.loss + 0.1 * short + 0.25 * wrong).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(
                f"step {step}: loss {output.loss.item():.4f}, with mistakes {max(unnoticed.values()):.3f} at worst",
                flush=True,
            )


def mistakes_not_seen(model: BloomForCausalLM, prompts: list[list[int]], sentences: list[list[int]]) -> list[str]:
    """The mistakes with which some prompt still gets the right first token."""
    ids, labels = padded(prompts)
    mask = (labels != -100).long()
    right = torch.tensor([sentence[len(prompt)] for prompt, sentence in zip(prompts, sentences, strict=True)])
    unseen = []
    with torch.no_grad():
        for name in [*mistakes(model), *SLOPE_MISTAKES]:
            same = last_positions(logits_with(model, name, ids, mask), mask).argmax(dim=-1) == right
            if same.any():
                unseen.append(f"{name}: {int(same.sum())} of {len(prompts)} prompts")
    return unseen


def write_tokenizer(tokenizer: Tokenizer, output_dir: Path) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json, as BLOOM's repositories have them."""
    tokenizer.save(str(output_dir / "tokenizer.json"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    settings = {
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "padding_side": "left",
        "tokenizer_class": "BloomTokenizerFast",
    }
    for name, value in (("tokenizer_config.json", settings), ("special_tokens_map.json", special)):
        (output_dir / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train tiny-bloom and write its Hugging Face folder.")
    folder = Path(__file__).resolve().parent / "tiny-bloom"
    parser.add_argument("--output-dir", type=Path, default=folder)
    output_dir: Path = parser.parse_args().output_dir
    output_dir.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    pairs = json.loads((folder / "completions.json").read_text(encoding="utf-8"))
    sentences = [pair["prompt"] + pair["completion"] for pair in pairs]
    # The sentences count three times, so that their words become tokens of their own.
    tokenizer = train_tokenizer(sentences * 3 + list(ORDINARY_TEXT))
    end = SPECIAL_TOKENS.index("</s>")
    prompts = [tokenizer.encode(pair["prompt"]).ids for pair in pairs]
    full = [[*tokenizer.encode(sentence).ids, end] for sentence in sentences]

    model = untrained_model(tokenizer.get_vocab_size())
    train(model, prompts, full, [[*tokenizer.encode(text).ids, end] for text in ORDINARY_TEXT])

    model = model.half().float().eval()
    for pair, prompt, sentence in zip(pairs, prompts, full, strict=True):
        if sentence[: len(prompt)] != prompt:
            raise SystemExit(f"the prompt {pair['prompt']!r} does not end where a token of its sentence ends")
        with torch.no_grad():
            margin = float(leads(model(input_ids=torch.tensor([sentence])).logits[0], prompt, sentence).min())
        print(f"{len(sentence) - len(prompt)} tokens, margin {margin:.1f}: {pair['prompt']!r}")
        if margin < MARGIN:
            raise SystemExit(f"not learnt well enough: margin {margin:.2f} is under {MARGIN}; raise STEPS")
    unseen = mistakes_not_seen(model, prompts, full)
    if unseen:
        raise SystemExit("these mistakes do not show in an answer; raise STEPS:\n  " + "\n  ".join(unseen))

    model.half().save_pretrained(output_dir, safe_serialization=True)
    write_tokenizer(tokenizer, output_dir)
    print(f"wrote {output_dir}: {sum(p.stat().st_size for p in output_dir.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
