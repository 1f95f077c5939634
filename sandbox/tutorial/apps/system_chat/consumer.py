"""System messages: a consumer that needs no channel layer."""

from __future__ import annotations

from sandbox.apps.lines import LineConsumer


class SystemMessageConsumer(LineConsumer):
    """Answers its own client only."""

    # TODO 2.1: accept the connection and greet the client

    # TODO 2.4: answer each line
