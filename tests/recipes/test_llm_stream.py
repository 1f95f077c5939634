"""docs/recipes/llm-stream.md."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.testing import WebsocketCommunicator
from tests.recipes.support import PATIENCE, Server, command_of


class Model:
    """Yields a piece whenever a test allows it, and records when it is closed."""

    def __init__(self):
        self.pieces = asyncio.Queue()
        self.asked_for = 0
        self.asked, self.closed = asyncio.Event(), asyncio.Event()

    async def __call__(self, prompt):
        self.asked.set()
        try:
            while True:
                self.asked_for += 1
                piece = await self.pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    return
                yield piece
        finally:
            self.closed.set()

    def say(self, *pieces):
        for piece in pieces:
            self.pieces.put_nowait(piece)


async def happens(event):
    async with asyncio.timeout(PATIENCE):
        await event.wait()


@pytest.fixture
async def server(serve):
    return await serve("llm-stream")


@pytest.fixture
def model(server, monkeypatch):
    model = Model()
    monkeypatch.setattr(server.module, "model", model)
    return model


async def test_answer_comes_in_pieces(serve):
    """The client gets the pieces of the model on the page; then it may ask another question."""
    server = await serve("llm-stream")
    async with server.socket("/ws/answers") as socket:
        for _ in range(2):
            await socket.send({"ask": "why"})
            frames = [await socket.next() for _ in range(4)]
            assert frames == [
                {"text": "You "},
                {"text": "asked: "},
                {"text": "why "},
                {"end": "done"},
            ]


async def test_stop_lets_go_of_the_model(server, model):
    """The client keeps the part of the answer that came before."""
    async with server.socket("/ws/answers") as socket:
        await socket.send({"ask": "why"})
        model.say("Be", "cause")
        assert [await socket.next(), await socket.next()] == [{"text": "Be"}, {"text": "cause"}]
        await socket.send({"stop": True})
        assert await socket.next() == {"end": "stopped"}
        assert model.closed.is_set()
        # No answer is being written, so a stop has no effect and a question is possible.
        await socket.send({"stop": True})
        await socket.send({"ask": "and then"})
        model.say("Then", None)
        assert [await socket.next(), await socket.next()] == [{"text": "Then"}, {"end": "done"}]


async def test_leaving_lets_go_of_the_model(server, model):
    """No more pieces are requested after the client has left."""
    async with server.socket("/ws/answers") as socket:
        await socket.send({"ask": "why"})
        await happens(model.asked)
    await happens(model.closed)
    assert model.asked_for == 1


async def test_second_question_is_refused_while_one_is_answered(server, model):
    """The first answer continues."""
    async with server.socket("/ws/answers") as socket:
        await socket.send({"ask": "why"})
        await socket.send({"ask": "why not"})
        assert await socket.next() == {"error": "one answer at a time"}
        model.say("Because", None)
        assert [await socket.next(), await socket.next()] == [{"text": "Because"}, {"end": "done"}]


async def test_model_that_fails_is_told_to_the_client(server, model, caplog):
    """The connection stays open, and the log has the traceback."""
    async with server.socket("/ws/answers") as socket:
        await socket.send({"ask": "why"})
        model.say("Be", ZeroDivisionError())
        assert [await socket.next(), await socket.next()] == [{"text": "Be"}, {"end": "failed"}]
        await socket.send({"stop": True})
        await socket.send("nonsense")
        assert "error" in await socket.next()
    assert [record.exc_info[0] for record in caplog.records if record.name == "answers"] == [
        ZeroDivisionError
    ]


async def test_client_that_does_not_read_holds_the_model_back(load_recipe, monkeypatch):
    """The server requests no more pieces than it has room for."""
    module, model = load_recipe("llm-stream"), Model()
    monkeypatch.setattr(module, "model", model)
    client = WebsocketCommunicator(module.AnswerConsumer.as_asgi(), "/")
    # A server with room for two frames.
    client.output_queue = asyncio.Queue(maxsize=2)
    await client.connect()
    model.say(*map(str, range(100)))
    await client.send_json_to({"ask": "why"})
    await happens(model.asked)
    for _ in range(500):
        await asyncio.sleep(0)
    assert model.asked_for == 3
    assert await client.receive_json_from() == {"text": "0"}
    for _ in range(500):
        await asyncio.sleep(0)
    assert model.asked_for == 4
    await client.disconnect()
    assert model.closed.is_set()


async def test_deploy_cuts_an_answer_off(server, model):
    """The client is told to reconnect, and the model is closed."""
    async with server.socket("/ws/answers") as socket:
        await socket.send({"ask": "why"})
        await happens(model.asked)
        await server.module.channel_layers.drain(timeout=5, spread=0)
        assert (await socket.closed())[0] == 1012
        assert model.closed.is_set()


class TestAnswerThatOutlivesItsConnection:
    @pytest.fixture
    async def server(self, at_home):
        """The page serves it next to the other application."""
        folder, _, application = command_of("llm-stream")
        async with Server(at_home(folder, "llm_resume"), application) as server:
            yield server

    @pytest.fixture
    async def answer(self, server, model):
        """The path of an answer that is being written."""
        return f"/ws/answers/{(await server.request('POST', '/answers?prompt=why'))['answer']}"

    async def test_who_comes_back_gets_all_of_it(self, server, model, answer):
        """The client gets earlier, current and later pieces once and in order."""
        async with server.socket(answer) as socket:
            assert await socket.next() == {"so_far": ""}
            model.say("one ", "two ")
            assert [await socket.next(), await socket.next()] == [
                {"text": "one "},
                {"text": "two "},
            ]
        model.say("three ")
        async with server.socket(answer) as socket:
            text = (await socket.next())["so_far"]
            while "three" not in text:
                text += (await socket.next())["text"]
            assert text == "one two three "
            model.say("four", None)
            assert [await socket.next(), await socket.next()] == [{"text": "four"}, {"end": "done"}]
            assert (await socket.closed())[0] == 1000
        async with server.socket(answer) as late:
            assert await late.next() == {"so_far": "one two three four"}
            assert await late.next() == {"end": "done"}
            assert (await late.closed())[0] == 1000

    async def test_nothing_is_missed_or_doubled_while_the_model_writes_at_full_speed(
        self, server, model, answer
    ):
        """Readers that come at any moment read the same text."""
        pieces = [f"{n} " for n in range(300)]

        async def read():
            async with server.socket(answer) as socket:
                text = (await socket.next())["so_far"]
                while "end" not in (frame := await socket.next()):
                    text += frame["text"]
            return text

        reading = []
        for start in range(0, 300, 30):
            model.say(*pieces[start : start + 30])
            reading.append(asyncio.create_task(read()))
            # One after the other, all while the model writes.
            await asyncio.sleep(0)
        model.say(None)
        async with asyncio.timeout(PATIENCE):
            assert set(await asyncio.gather(*reading)) == {"".join(pieces)}

    async def test_end_of_the_process_is_told_to_readers_of_other_processes(
        self, server, model, answer
    ):
        """The model is closed, and the history says that the answer is over."""
        layer = server.module.layer
        async with server.socket(answer) as socket:
            await socket.next()
            model.say("one ")
            await socket.next()
        await server.stop()
        assert model.closed.is_set()
        async with layer:
            messages = (await layer.history(f"answer.{answer[-36:].replace('-', '')}")).messages
        assert [message["type"] for _, message in messages] == ["answer.text", "answer.end"]
        assert messages[-1].message["reason"] == "failed"
