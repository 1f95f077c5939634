"""
One small file for each contender, run by the interpreter in which it is installed.

Each file has `open_layer()`, with which another process sends to the group, and `app`, an ASGI
application with three paths:

- `/room` joins the group, then accepts, and sends each message of the group to the client;
- `/echo` sends each frame back;
- `/publish` sends each frame to the group, from within the process.
"""
