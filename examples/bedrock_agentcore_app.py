"""An Amazon Bedrock AgentCore app, unchanged: the same file runs with plain `python` and on AgentCore.

phalanx deploy examples/bedrock_agentcore_app.py --entrypoint bedrock_agentcore_app.py --requirements bedrock-agentcore
"""

from typing import Any

from bedrock_agentcore import BedrockAgentCoreApp

app = BedrockAgentCoreApp()


@app.entrypoint
def invoke(payload: dict[str, Any], context: Any) -> dict[str, Any]:
    prompt = payload.get("prompt", "Hello")
    app.logger.info("invoked with %d characters", len(prompt))
    return {"result": f"You said: {prompt}", "session_id": context.session_id}


if __name__ == "__main__":
    app.run()
