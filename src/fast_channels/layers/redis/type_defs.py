"""Types of what the Redis layers are configured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

# One entry of `hosts`: a URL, (host, port), or keywords; see decode_hosts.
ChannelRawRedisHost: TypeAlias = str | tuple[str, int] | list[Any] | Mapping[str, Any]
# What decode_hosts makes of it: keywords of redis-py's Connection, or "address" or "sentinels".
ChannelDecodedRedisHost: TypeAlias = dict[str, Any]

# Newest first: the first one encrypts, all of them decrypt.
SymmetricEncryptionKeys: TypeAlias = Sequence[str | bytes]
