"""`CallbackToken`: what a partner is given to answer a callback. A flow hands it on, and never sees it.

In a flow it is a reference, which is what the record keeps of it. In the stage that declares a parameter of this type
it is the token itself: made there, and known to the record by its hash. (docs/adr/0050)
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any

from pydantic_core import core_schema

from orchestrator.errors import DefinitionError

_REFERENCE = "callback:"
_BYTES = 32
"""256 bits, of the system's own source."""

TOKEN_LENGTH_MAX = 200

HandOver = Callable[[str], str]
"""The token of the callback of that key, for the stage that is about to work."""

_handing: ContextVar[HandOver | None] = ContextVar("perennial_handing", default=None)


class CallbackToken:
    """The token of a callback: `secret` is what the partner gets. `CallbackToken("…")` makes one for a test."""

    __slots__ = ("_key", "_secret")

    def __init__(self, secret: str, *, key: str = "") -> None:
        self._key, self._secret = key, secret

    @property
    def key(self) -> str:
        """The callback's, in its run's journal; "" of one that a test has made."""
        return self._key

    @property
    def secret(self) -> str:
        """What the partner gets, in the stage that was given this. Raises DefinitionError in a flow."""
        if not self._secret:
            raise DefinitionError(
                f"the token of callback {self._key} is asked for its secret where only a reference is",
                remedy="A flow never has it: give the token to a stage whose parameter is declared CallbackToken.",
            )
        return self._secret

    def __repr__(self) -> str:
        return f"<token of callback {self._key}>" if self._key else "<a callback's token>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CallbackToken) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """A reference as JSON; and, where a stage is about to work, the token that it stands for."""
        return core_schema.no_info_plain_validator_function(
            _read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _written, return_schema=core_schema.str_schema()
            ),
        )


def _read(value: Any) -> CallbackToken:
    if isinstance(value, CallbackToken):
        return value
    if not isinstance(value, str) or not value.startswith(_REFERENCE):
        raise ValueError("a callback's token comes from a flow's `flow.callback(…).token`")
    key, hand_over = value.removeprefix(_REFERENCE), _handing.get()
    return CallbackToken("" if hand_over is None else hand_over(key), key=key)


def _written(token: Any) -> str:
    if not isinstance(token, CallbackToken):
        raise TypeError("a callback's token comes from a flow's `flow.callback(…).token`")
    if not token.key:
        raise ValueError("a callback's token is written down nowhere")
    return f"{_REFERENCE}{token.key}"


class handing_over:  # noqa: N801 - it reads as a verb; a class, and no generator: it is made for each stage
    """What is read in this block is for a stage that is about to work: references become tokens.

    Where a token could not be had, the block ends with that error: it says nothing of what was read.
    """

    __slots__ = ("_failed", "_hand_over", "_token")

    def __init__(self, hand_over: HandOver) -> None:
        self._hand_over = hand_over
        self._failed: BaseException | None = None

    def __enter__(self) -> None:
        self._token = _handing.set(self._hand)

    def __exit__(self, *_error: object) -> None:
        _handing.reset(self._token)
        if self._failed is not None:  # guard: a token that could not be had is no mismatch
            raise self._failed from None

    def _hand(self, key: str) -> str:
        try:
            return self._hand_over(key)
        except DefinitionError:  # that is of what was read
            raise
        except BaseException as error:
            self._failed = error
            raise


def new_token() -> str:
    """A token that nobody can guess."""
    return token_urlsafe(_BYTES)


def hash_of(token: str) -> str:
    """By which the record knows it."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
