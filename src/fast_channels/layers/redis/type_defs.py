"""Types of the options of the Redis layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

ChannelRawRedisHost: TypeAlias = str | tuple[str, int] | list[Any] | Mapping[str, Any]
"""One entry of `hosts`: a URL, (host, port), or keywords; see decode_hosts."""

ChannelDecodedRedisHost: TypeAlias = dict[str, Any]
"""The result of decode_hosts: keywords of redis-py's Connection, or "address" or "sentinels"."""

SymmetricEncryptionKeys: TypeAlias = Sequence[str | bytes]
"""Encryption keys, the newest first: the first key encrypts, all of them decrypt."""
