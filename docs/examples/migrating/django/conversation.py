"""Conversations with both versions of the shop; `Client` is a WebsocketCommunicator."""


async def check(application, Client, cookie):  # noqa: N803 - it is a class
    """Two clients chat, a stranger is rejected, and a client asks for a name."""
    headers = [(b"origin", b"https://example.com"), (b"cookie", cookie)]

    stranger = Client(application, "/ws/chat/lobby/", headers[:1])
    assert (await stranger.connect(timeout=15))[0] is False
    elsewhere = Client(application, "/ws/chat/lobby/", [(b"origin", b"https://evil.test")])
    assert (await elsewhere.connect(timeout=15))[0] is False

    ann = Client(application, "/ws/chat/lobby/", headers)
    bob = Client(application, "/ws/chat/lobby/", headers)
    for client in (ann, bob):
        assert await client.connect(timeout=15) == (True, None)
        assert await client.receive_json_from(timeout=15) == {"members": 1}
    await ann.send_json_to({"text": "hello"})
    for client in (ann, bob):
        assert await client.receive_json_from(timeout=15) == {"who": "ann", "text": "hello"}
    await bob.disconnect(timeout=15)

    finder = Client(application, "/ws/find/", headers)
    assert (await finder.connect(timeout=15))[0]
    for name, found in (("ann", True), ("nobody", False)):
        await finder.send_json_to({"find": name})
        assert await finder.receive_json_from(timeout=15) == {"found": found}
    await finder.disconnect(timeout=15)
    return ann


async def check_announcement(client, request):
    """A message that a view sends arrives; `request` is an HttpCommunicator."""
    assert (await request.get_response(timeout=15))["body"] == b"announced"
    assert await client.receive_json_from(timeout=15) == {"who": "shop", "text": "sale"}


async def check_mail(client):
    """A worker sends a mail and notifies the client."""
    await client.send_json_to({"text": "mail: hi"})
    told = [await client.receive_json_from(timeout=15) for _ in range(2)]
    assert told[0] == {"who": "ann", "text": "mail: hi"}
    assert told[1] == {"who": "mailer", "text": "sent mail: hi"}
