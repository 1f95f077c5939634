"""
One small file for each contender, run by the interpreter that has it installed.

Each has `app`, an ASGI application with three paths, and `open_layer()`, how
another process speaks to it:

- `/room` joins the group, then accepts, and sends on what the group gets;
- `/echo` answers each frame with the same one;
- `/publish` sends each frame to the group, from within the process.
"""
