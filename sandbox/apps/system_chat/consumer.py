"""System messages: a consumer that needs no channel layer."""

from __future__ import annotations

from sandbox.apps.lines import LineConsumer


class SystemMessageConsumer(LineConsumer):
    """Answers its own client only."""

    async def connect(self) -> None:
        await self.accept()
        await self.send("welcome: an echo, no layer involved")

    async def receive_line(self, line: str) -> None:
        await self.send(f"echo: {line}")
