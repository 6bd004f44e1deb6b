"""Text out of tokens that come in pieces: whole characters only, and joined exactly the text of all the tokens together."""

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not, or not yet, a character."""

Decode = Callable[[Sequence[Sequence[int]]], list[str]]


class TextStream:
    """One sequence. A token's text depends on its neighbours (a leading space, a character of several tokens), so each piece is
    decoded after the piece before it, and what both decodings begin with is taken away."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._window = 0
        self._told = 0
        self.text = ""

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens add; "" while a character is unfinished."""
        self._ids.extend(ids)
        piece = self._piece()
        if not piece or piece.endswith(UNFINISHED):
            return ""
        self._window, self._told = self._told, len(self._ids)
        self.text += piece
        return piece

    def finish(self) -> str:
        """The text that was held back, when no more tokens come."""
        piece = self._piece() if self._told < len(self._ids) else ""
        self._told = len(self._ids)
        self.text += piece
        return piece

    def _piece(self) -> str:
        before, whole = self._decode([self._ids[self._window : self._told], self._ids[self._window :]])
        return whole[len(before) :]
