"""The peer with a handler that waits one second, as for a model's answer."""

import asyncio
import os

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


@app.entrypoint
async def invoke(payload):
    await asyncio.sleep(1)
    return payload


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), host="127.0.0.1")
