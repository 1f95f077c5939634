"""
The showcase, extended with a layer, a consumer, a script and a broadcast of its own.

Run it with `uvicorn sandbox.customizing.main:app`, connect to `/ws/monitoring`,
then run `python -m sandbox.customizing.send_alert "disk is almost full"`.
"""
