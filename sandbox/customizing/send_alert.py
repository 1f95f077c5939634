"""A script outside the server, in ordinary blocking code, such as a cron job runs."""

from __future__ import annotations

import argparse
import sys

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.sync import SyncChannelLayer
from sandbox.customizing.broadcast import ALERT_GROUP, SEVERITIES, alert_message
from sandbox.customizing.layers import setup_monitoring


def send_alert(text: str, severity: str) -> None:
    setup_monitoring()
    SyncChannelLayer("monitoring").group_send(ALERT_GROUP, alert_message(text, severity))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.customizing.send_alert")
    parser.add_argument("text")
    parser.add_argument("--severity", choices=SEVERITIES, default="medium")
    arguments = parser.parse_args()
    try:
        send_alert(arguments.text, arguments.severity)
    except LayerUnavailable as error:
        print(f"send_alert: {error}", file=sys.stderr)
        return 1
    print(f"alert sent ({arguments.severity}): {arguments.text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
