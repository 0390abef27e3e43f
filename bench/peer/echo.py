"""The peer: what AWS's own SDK gives a developer locally, unmodified."""

import os

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload):
    return payload


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), host="127.0.0.1")
