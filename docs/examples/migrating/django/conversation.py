"""What clients of the shop see, whoever serves them; `Client` is a WebsocketCommunicator."""


async def check(application, Client, cookie):  # noqa: N803 - it is a class
    """Two clients chat, a stranger is sent away, and a client asks for a name."""
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
    """What a view sends arrives; `request` is an HttpCommunicator."""
    assert (await request.get_response(timeout=15))["body"] == b"announced"
    assert await client.receive_json_from(timeout=15) == {"who": "shop", "text": "sale"}


async def check_mail(client):
    """What is work for a worker is done by it, and told."""
    await client.send_json_to({"text": "mail: hi"})
    told = [await client.receive_json_from(timeout=15) for _ in range(2)]
    assert told[0] == {"who": "ann", "text": "mail: hi"}
    assert told[1] == {"who": "mailer", "text": "sent mail: hi"}
