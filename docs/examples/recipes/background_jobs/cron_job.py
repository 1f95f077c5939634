"""The script for cron: `python cron_job.py nightly`. It ends when the broker has the message."""

from __future__ import annotations

import sys

import reports

if __name__ == "__main__":
    reports.build(sys.argv[1])
