"""Exercise of part 2: each connection numbers its answers."""

from __future__ import annotations

from sandbox.apps.lines import LineConsumer


class SystemMessageConsumer(LineConsumer):
    """Answers its own client only."""

    # Lines that this connection has answered.
    answered = 0

    async def connect(self) -> None:
        await self.accept()
        await self.send("welcome: an echo, no layer involved")

    async def receive_line(self, line: str) -> None:
        self.answered += 1
        await self.send(f"echo {self.answered}: {line}")
