"""
The process that runs the background jobs: `python -m sandbox.worker`.

RQ forks a process per job, which reports over a connection of its own. The worker itself
reports only that such a process was killed.
"""

from __future__ import annotations

import argparse
import sys

import redis
import rq

from sandbox.layers import redis_url
from sandbox.tasks import JOB_QUEUE, report_killed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.worker", description=__doc__)
    parser.add_argument("--name", help="how RQ lists this worker (default: a random name)")
    arguments = parser.parse_args()
    try:
        connection = redis.Redis.from_url(redis_url)
        worker = rq.Worker(
            [JOB_QUEUE],
            name=arguments.name,
            connection=connection,
            work_horse_killed_handler=report_killed,
        )
        worker.work(logging_level="WARNING")
    except (redis.RedisError, ValueError) as error:
        print(f"worker: the broker at REDIS_URL cannot be used: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
