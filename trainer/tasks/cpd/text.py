"""Text encoders: from captions to one vector each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shards.errors import UserError

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Tokens(NamedTuple):
    """Captions as numbers: `ids` (n,L) int32, 0 where a caption has ended, and `mask` (n,L) bool, where it has not."""

    ids: Tensor
    mask: Tensor


class TextEncoder(nn.Module):
    """Base of text encoders.

    Attributes:
        width: D, length of the vector.
    """

    width: int

    def tokenize(self, captions: Sequence[str], *, most: int) -> Tokens:
        """Captions cut to `most` tokens."""
        raise NotImplementedError

    def hidden(self, ids_NL: Tensor, mask_NL: Tensor | None) -> Tensor:
        """(N,L,D) last hidden states; without mask every position is attended to."""
        raise NotImplementedError

    def forward(self, ids_NL: Tensor, mask_NL: Tensor, *, attend_all: bool = False) -> Tensor:
        """(N,D): mean of the hidden states over each caption's own positions, special tokens included.

        Args:
            attend_all: let positions attend to padding as well, as the reference does (reference/cpd.md section 12.7).
        """
        states_NLD = self.hidden(ids_NL.long(), None if attend_all else mask_NL)
        own_NL1 = mask_NL[..., None].to(states_NLD.dtype)
        return (states_NLD * own_NL1).sum(1) / own_NL1.sum(1).clamp(min=1)


class BuiltinText(TextEncoder):
    """A small transformer over hashed words, from scratch: for tests, and where nothing can be downloaded.

    A word's number is a hash of it in lower case, so there is no vocabulary file; words may share a number.
    """

    def __init__(
        self, *, words: int = 8192, width: int = 128, layers: int = 2, heads: int = 4, longest: int = 512
    ) -> None:
        super().__init__()
        self.width, self._words, self._longest = width, words, longest
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def tokenize(self, captions: Sequence[str], *, most: int) -> Tokens:
        rows = [[1, *map(self._number, _WORD.findall(caption.lower()))][:most] for caption in captions]
        ids = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.int32)
        for row, numbers in zip(ids, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int32)
        return Tokens(ids, ids != 0)

    def hidden(self, ids_NL: Tensor, mask_NL: Tensor | None) -> Tensor:
        embedded = self.embedding(ids_NL) + self.position[: ids_NL.shape[1]]
        states: Tensor = self.layers(embedded, src_key_padding_mask=None if mask_NL is None else ~mask_NL)
        return states

    def _number(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
        return 2 + int.from_bytes(digest, "little") % (self._words - 2)


class HubText(TextEncoder):
    """A transformers model with its tokenizer, from a local folder or by its name on the hub."""

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 (an extra, and slow to import)
        except ImportError as error:
            raise UserError(
                f"task.text is {name!r}, which needs transformers: pip install 'vidprep[text]', or set "
                "task.text=builtin"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            # Never a pickle: weights come as safetensors or not at all.
            self.model: Any = AutoModel.from_pretrained(name, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise UserError(
                f"task.text: {name!r} is neither a folder nor a model that can be loaded "
                f"({str(error).splitlines()[0]}); give a folder with config.json, tokenizer files and "
                "model.safetensors, a name on the hub, or builtin"
            ) from error
        self.width = int(self.model.config.hidden_size)

    def tokenize(self, captions: Sequence[str], *, most: int) -> Tokens:
        found = self._tokenizer(list(captions), padding=True, truncation=True, max_length=most, return_tensors="pt")
        mask = found["attention_mask"].bool()
        return Tokens(found["input_ids"].masked_fill(~mask, 0).int(), mask)

    def hidden(self, ids_NL: Tensor, mask_NL: Tensor | None) -> Tensor:
        mask = torch.ones_like(ids_NL) if mask_NL is None else mask_NL.long()
        states: Tensor = self.model(input_ids=ids_NL, attention_mask=mask).last_hidden_state
        return states


def build_text(name: str) -> TextEncoder:
    """The encoder of that name: "builtin", a local folder, or a name on the hub.

    Raises:
        UserError: transformers is missing, or there is no such model.
    """
    return BuiltinText() if name == "builtin" else HubText(name)
