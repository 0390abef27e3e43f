//! Sessions: who calls, and the instances that are theirs alone.

mod end;
mod list;

use phalanx_tests::{Client, Value, json};

/// Says which instance answers.
const WHO: &str = "import time, uuid\nME = str(uuid.uuid4())\n\
    def handler(input):\n    time.sleep((input or {}).get('s', 0))\n    return ME\n";

async fn deploy(client: &Client, isolation: &str) {
    let changes = json!({"deployment_config": {
        "security": {"isolation": isolation},
        "auto_scaling": {"min_instances": 1, "max_instances": 6},
    }});
    client.deploy_source("agent", WHO, changes).await;
}

/// The output of a call of this session.
async fn call(client: &Client, session: Option<&str>) -> Value {
    let body = json!({"input_data": {"parameters": {}, "context": {"session_id": session}}});
    let done = client.execute_with("agent", &body).await.ok();
    assert_eq!(done["status"], "completed", "{done:#}");
    done["result"]["output"].clone()
}
