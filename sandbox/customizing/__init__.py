"""
The showcase with something of your own: a layer, a consumer, a script, a broadcast.

Run it with `uvicorn sandbox.customizing.main:app`, connect to `/ws/monitoring`,
then run `python -m sandbox.customizing.send_alert "disk is almost full"`.
"""
