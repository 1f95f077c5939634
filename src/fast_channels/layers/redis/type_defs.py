"""Types of the options of the Redis layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# One entry of `hosts`: a URL, (host, port), or keywords; see decode_hosts.
ChannelRawRedisHost: TypeAlias = str | tuple[str, int] | list[Any] | Mapping[str, Any]
# The result of decode_hosts: keywords of redis-py's Connection, or "address" or "sentinels".
ChannelDecodedRedisHost: TypeAlias = dict[str, Any]

# The newest first: the first key encrypts, all of them decrypt.
SymmetricEncryptionKeys: TypeAlias = Sequence[str | bytes]
