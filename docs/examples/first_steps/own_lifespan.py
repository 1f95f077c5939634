"""An application that has a lifespan of its own."""

import contextlib
from collections.abc import AsyncGenerator

from fastapi import FastAPI

from fast_channels import channel_layers


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    print("open the database")
    async with channel_layers.lifespan(app):
        yield
    print("close the database")


app = FastAPI(lifespan=lifespan)
