"""Token tensors to text: what `postprocessing` does, without Triton."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.tensors import Tensors, bytes_tensor
from engine_jobs.tensorrt_llm.repository_models.tokenizer import Tokenizer

PASSED_ON = ("CUM_LOG_PROBS", "OUTPUT_LOG_PROBS", "CONTEXT_LOGITS", "GENERATION_LOGITS", "BATCH_INDEX")
"""What v0.12's postprocessing takes and gives again as OUT_<name>; later versions' ensembles lead it around."""


@dataclass(frozen=True, kw_only=True)
class Postprocessing:
    """One call knows nothing of the others, so a streaming ensemble's pieces are decoded one by one, as upstream; tensorrt_llm_bls
    decodes each piece after what came before it, and is exact."""

    tokenizer: Tokenizer
    skip_special_tokens: bool

    def answer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """OUTPUT BYTES[B,beams] for TOKENS_BATCH INT32[B,beams,T] and SEQUENCE_LENGTH INT32[B,beams]. Raises UserError for tensors
        of other shapes and for ids that are no tokens."""
        for name in ("TOKENS_BATCH", "SEQUENCE_LENGTH"):
            if name not in tensors:
                raise UserError(f"{name} is missing")
        tokens, lengths = tensors["TOKENS_BATCH"], tensors["SEQUENCE_LENGTH"]
        if tokens.ndim != 3 or lengths.shape != tokens.shape[:2]:
            raise UserError(
                f"TOKENS_BATCH has shape {list(tokens.shape)} and SEQUENCE_LENGTH {list(lengths.shape)}; they must be "
                "[rows, beams, tokens] and [rows, beams]"
            )
        if lengths.size and not 0 <= lengths.min() <= lengths.max() <= tokens.shape[2]:
            raise UserError(
                f"SEQUENCE_LENGTH {lengths.reshape(-1).tolist()} must lie within the {tokens.shape[2]} tokens given"
            )
        made = {
            "OUTPUT": bytes_tensor(
                [
                    [self._text(beam[:length]) for beam, length in zip(row, row_lengths, strict=True)]
                    for row, row_lengths in zip(tokens, lengths, strict=True)
                ]
            )
        }
        return made | {f"OUT_{name}": tensors[name] for name in PASSED_ON if name in tensors}

    def _text(self, ids: NDArray[Any]) -> str:
        if ids.size and int(ids.min()) < 0:
            raise UserError(f"TOKENS_BATCH holds {int(ids.min())}, which is no token")
        return self.tokenizer.decode(ids.tolist(), self.skip_special_tokens)
