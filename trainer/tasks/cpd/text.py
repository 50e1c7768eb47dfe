"""Text encoders: from captions to one vector each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from shards.errors import UserError

_ANY = 1 << 20  # tokens: no bound
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Tokens(NamedTuple):
    """Captions as numbers.

    Attributes:
        ids: (n,L) int32, 0 where a caption has ended; L is the length of the longest.
        mask: (n,L) bool, where it has not.
        cut: (n,) bool, whether it was longer than allowed.
    """

    ids: Tensor
    mask: Tensor
    cut: Tensor

    def padded(self, length: int) -> Tokens:
        """The same with L = length."""
        more = (0, length - self.ids.shape[1])
        return Tokens(functional.pad(self.ids, more), functional.pad(self.mask, more), self.cut)


class TextEncoder(nn.Module):
    """Base of text encoders.

    Attributes:
        width: D, length of the vector.
        longest: tokens of a caption that it can read.
    """

    width: int
    longest: int

    def tokenize(self, captions: Sequence[str], *, most: int) -> Tokens:
        """Captions cut to `most` tokens, special ones at the end kept."""
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
        self.width, self.longest, self._words = width, longest, words
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(longest, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def tokenize(self, captions: Sequence[str], *, most: int) -> Tokens:
        rows = [[1, *map(self._number, _WORD.findall(caption.lower()))] for caption in captions]
        ids = _padded([row[:most] for row in rows])
        return Tokens(ids, ids != 0, torch.tensor([len(row) > most for row in rows], dtype=torch.bool))

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
        if getattr(self.model, "pooler", None) is not None:
            # BERT's: not part of what is averaged here, and a parameter without gradient stops several processes.
            self.model.pooler = None
        self.width = int(self.model.config.hidden_size)
        positions = getattr(self.model.config, "max_position_embeddings", _ANY)
        self.longest = min(int(positions), int(min(self._tokenizer.model_max_length, _ANY)))

    def tokenize(self, captions: Sequence[str], *, most: int) -> Tokens:
        rows = self._numbers(captions, most + 1)
        cut = [i for i, row in enumerate(rows) if len(row) > most]
        for i, row in zip(cut, self._numbers([captions[i] for i in cut], most), strict=True):
            rows[i] = row
        ids = _padded(rows)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        long = torch.zeros(len(rows), dtype=torch.bool)
        long[cut] = True
        return Tokens(ids, mask, long)

    def _numbers(self, captions: Sequence[str], most: int) -> list[list[int]]:
        if not captions:
            return []
        return list(self._tokenizer(list(captions), truncation=True, max_length=most)["input_ids"])

    def hidden(self, ids_NL: Tensor, mask_NL: Tensor | None) -> Tensor:
        mask = torch.ones_like(ids_NL) if mask_NL is None else mask_NL.long()
        states: Tensor = self.model(input_ids=ids_NL, attention_mask=mask).last_hidden_state
        return states


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """(n,L) int32, rows filled up with zeros on the right."""
    ids = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.int32)
    for row, numbers in zip(ids, rows, strict=True):
        row[: len(numbers)] = torch.tensor(numbers, dtype=torch.int32)
    return ids


def build_text(name: str) -> TextEncoder:
    """The encoder of that name: "builtin", a local folder, or a name on the hub.

    Raises:
        UserError: transformers is missing, or there is no such model.
    """
    return BuiltinText() if name == "builtin" else HubText(name)
