//! Every field of the integration document, in true answers of an agent that is used: there, of its type, and with a value.

use phalanx_tests::{Cluster, Options, Value, client::Client, fixtures, json, wait};
use std::time::Duration;

/// The document's own response schemas, by its numbers.
const DEPLOYED: &str = r#"{
  "deployment_id": "string",
  "agent_id": "string",
  "status": "string (enum: deploying|deployed|failed)",
  "api_endpoint": "string",
  "deployment_info": {
    "region": "string",
    "runtime_environment": "string",
    "created_at": "string (ISO 8601)",
    "estimated_completion": "string (ISO 8601)"
  },
  "monitoring": {
    "cloudwatch_log_group": "string",
    "metrics_namespace": "string",
    "dashboard_url": "string"
  },
  "security": {
    "api_key": "string",
    "webhook_secret": "string"
  }
}"#;
const ERROR: &str = r#"{
  "error": {
    "code": "string",
    "message": "string",
    "details": {
      "validation_errors": ["string"],
      "deployment_logs": ["string"]
    }
  }
}"#;
const DEPLOYMENT: &str = r#"{
  "deployment_id": "string",
  "agent_id": "string",
  "status": "string",
  "progress": "number (0-100)",
  "current_phase": "string",
  "phases": [
    {
      "name": "string",
      "status": "string (pending|running|completed|failed)",
      "started_at": "string (ISO 8601)",
      "completed_at": "string (ISO 8601, nullable)",
      "logs": ["string"]
    }
  ],
  "health": {
    "overall_status": "string (healthy|degraded|unhealthy)",
    "checks": [
      {
        "name": "string",
        "status": "string",
        "last_check": "string (ISO 8601)",
        "message": "string"
      }
    ]
  },
  "performance": {
    "response_time_p95": "number (ms)",
    "error_rate": "number (0-1)",
    "throughput": "number (requests/sec)",
    "cpu_utilization": "number (0-1)",
    "memory_utilization": "number (0-1)"
  }
}"#;
const AGENTS: &str = r#"{
  "agents": [
    {
      "agent_id": "string",
      "name": "string",
      "version": "string",
      "status": "string",
      "api_endpoint": "string",
      "created_at": "string (ISO 8601)",
      "last_updated": "string (ISO 8601)",
      "health_status": "string",
      "performance_metrics": {
        "avg_response_time": "number (ms)",
        "success_rate": "number (0-1)",
        "total_requests": "integer"
      }
    }
  ],
  "pagination": {
    "page": "integer",
    "limit": "integer",
    "total": "integer",
    "total_pages": "integer"
  }
}"#;
const AGENT: &str = r#"{
  "agent_id": "string",
  "metadata": {
    "name": "string",
    "description": "string",
    "version": "string",
    "tags": ["string"],
    "created_by": "string",
    "created_at": "string (ISO 8601)",
    "last_updated": "string (ISO 8601)"
  },
  "deployment": {
    "environment": "string",
    "region": "string",
    "api_endpoint": "string",
    "status": "string",
    "configuration": {
      "memory_limit": "integer",
      "timeout": "integer",
      "concurrent_executions": "integer"
    }
  },
  "performance": {
    "uptime": "number (percentage)",
    "total_requests": "integer",
    "avg_response_time": "number (ms)",
    "error_rate": "number (0-1)",
    "throughput": "number (requests/sec)"
  },
  "scaling": {
    "current_instances": "integer",
    "min_instances": "integer",
    "max_instances": "integer",
    "scaling_events": [
      {
        "timestamp": "string (ISO 8601)",
        "action": "string (scale_up|scale_down)",
        "reason": "string",
        "from_instances": "integer",
        "to_instances": "integer"
      }
    ]
  },
  "security": {
    "iam_role": "string",
    "vpc_id": "string",
    "security_groups": ["string"],
    "encryption_status": "string"
  }
}"#;
const SYNC: &str = r#"{
  "execution_id": "string",
  "status": "string (completed|failed)",
  "result": {
    "output": {},
    "metadata": {
      "execution_time": "number (ms)",
      "memory_used": "number (MB)",
      "cpu_time": "number (ms)",
      "tokens_used": "integer (if applicable)"
    }
  },
  "performance": {
    "started_at": "string (ISO 8601)",
    "completed_at": "string (ISO 8601)",
    "duration": "number (ms)",
    "queue_time": "number (ms)"
  },
  "logs": [
    {
      "timestamp": "string (ISO 8601)",
      "level": "string",
      "message": "string",
      "context": {}
    }
  ]
}"#;
const ASYNC: &str = r#"{
  "execution_id": "string",
  "status": "string (queued|running)",
  "estimated_completion": "string (ISO 8601)",
  "status_url": "string",
  "callback_url": "string"
}"#;
const EXECUTION: &str = r#"{
  "execution_id": "string",
  "agent_id": "string",
  "status": "string (queued|running|completed|failed|timeout)",
  "progress": "number (0-100, optional)",
  "started_at": "string (ISO 8601)",
  "completed_at": "string (ISO 8601, nullable)",
  "result": {
    "output": {},
    "error": {
      "code": "string",
      "message": "string",
      "details": {}
    }
  },
  "performance": {
    "duration": "number (ms)",
    "memory_peak": "number (MB)",
    "cpu_time": "number (ms)",
    "queue_time": "number (ms)"
  },
  "logs": [
    {
      "timestamp": "string (ISO 8601)",
      "level": "string",
      "message": "string"
    }
  ]
}"#;
const METRICS: &str = r#"{
  "agent_id": "string",
  "time_range": {
    "start": "string (ISO 8601)",
    "end": "string (ISO 8601)",
    "granularity": "string"
  },
  "metrics": {
    "execution_count": [
      {
        "timestamp": "string (ISO 8601)",
        "value": "integer"
      }
    ],
    "response_time": [
      {
        "timestamp": "string (ISO 8601)",
        "avg": "number (ms)",
        "p50": "number (ms)",
        "p95": "number (ms)",
        "p99": "number (ms)"
      }
    ],
    "error_rate": [
      {
        "timestamp": "string (ISO 8601)",
        "value": "number (0-1)"
      }
    ],
    "throughput": [
      {
        "timestamp": "string (ISO 8601)",
        "value": "number (requests/sec)"
      }
    ],
    "resource_usage": [
      {
        "timestamp": "string (ISO 8601)",
        "cpu": "number (0-1)",
        "memory": "number (0-1)",
        "disk": "number (0-1)"
      }
    ]
  },
  "summary": {
    "total_executions": "integer",
    "success_rate": "number (0-1)",
    "avg_response_time": "number (ms)",
    "peak_throughput": "number (requests/sec)",
    "uptime": "number (percentage)"
  }
}"#;
const HEALTH: &str = r#"{
  "overall_status": "string (healthy|degraded|unhealthy)",
  "timestamp": "string (ISO 8601)",
  "components": {
    "agentcore_service": {
      "status": "string",
      "response_time": "number (ms)",
      "last_check": "string (ISO 8601)"
    },
    "database": {
      "status": "string",
      "connection_count": "integer",
      "query_performance": "number (ms)"
    },
    "monitoring": {
      "status": "string",
      "metrics_lag": "number (seconds)",
      "log_ingestion_rate": "number (events/sec)"
    }
  },
  "capacity": {
    "total_agents": "integer",
    "active_agents": "integer",
    "total_executions_per_minute": "integer",
    "resource_utilization": {
      "cpu": "number (0-1)",
      "memory": "number (0-1)",
      "network": "number (0-1)"
    }
  }
}"#;

/// What differs from the document: everything else of it is an answer's duty. `missing` may be null, and nothing but null.
fn differences(documented: &str, answered: &Value, missing: &[&str]) -> Vec<String> {
    let documented: Value = serde_json::from_str(documented).expect("the document is JSON");
    let mut faults = Vec::new();
    compare(&documented, answered, "", &mut faults);
    for path in missing {
        let known = faults.len();
        faults.retain(|fault| fault != &format!("{path}: null"));
        assert!(
            faults.len() < known,
            "{path} is not null any more: {answered:#}"
        );
    }
    faults
}

fn compare(documented: &Value, answered: &Value, path: &str, faults: &mut Vec<String>) {
    match documented {
        Value::String(kind) => {
            if let Err(what) = of_kind(kind, answered) {
                faults.push(format!("{path}: {what}"));
            }
        }
        Value::Array(items) => {
            let Some(found) = answered.as_array() else {
                return faults.push(format!("{path}: {answered} is no list"));
            };
            if found.is_empty() && items[0].is_object() {
                faults.push(format!("{path}: empty"));
            }
            for item in found {
                compare(&items[0], item, path, faults);
            }
        }
        // Anything, where the document says nothing of it.
        Value::Object(fields) if fields.is_empty() => {
            if answered.is_null() {
                faults.push(format!("{path}: null"));
            }
        }
        Value::Object(fields) => {
            if answered.is_null() {
                return faults.push(format!("{path}: null"));
            }
            for (name, field) in fields {
                let below = format!("{path}.{name}");
                let below = below.trim_start_matches('.');
                match answered.get(name) {
                    Some(found) => compare(field, found, below, faults),
                    None => faults.push(format!("{below}: is not there")),
                }
            }
        }
        other => panic!("the document has {other}"),
    }
}

/// As the document words it: a type, and in brackets what it means.
fn of_kind(kind: &str, answered: &Value) -> Result<(), String> {
    let (kind, meaning) = kind.split_once(" (").unwrap_or((kind, ""));
    let meaning = meaning.trim_end_matches(')');
    if answered.is_null() {
        let may = meaning.contains("nullable") || meaning.contains("optional");
        return if may { Ok(()) } else { Err("null".to_owned()) };
    }
    let between = |least: f64, most: f64| {
        let number = answered.as_f64().unwrap_or(f64::NAN);
        (least..=most).contains(&number)
    };
    let fits = match kind {
        "string" if meaning.starts_with("ISO 8601") => answered.as_str().is_some_and(is_time),
        "string" if meaning.contains('|') => {
            let mut words = meaning.trim_start_matches("enum: ").split('|');
            words.any(|word| answered == word)
        }
        "string" => answered.as_str().is_some_and(|text| !text.is_empty()),
        "integer" => answered.is_u64(),
        "number" if meaning == "0-1" => between(0.0, 1.0),
        "number" if meaning.starts_with("0-100") || meaning == "percentage" => between(0.0, 100.0),
        "number" => between(0.0, f64::MAX),
        other => panic!("the document has the type {other}"),
    };
    if fits {
        return Ok(());
    }
    Err(format!("{answered} is no {kind} ({meaning})"))
}

/// As `2026-01-31T09:30:00.000Z`.
fn is_time(text: &str) -> bool {
    let form = "0000-00-00T00:00:00.000Z";
    let alike = |(is, wants): (char, char)| is == wants || (wants == '0' && is.is_ascii_digit());
    text.len() == form.len() && text.chars().zip(form.chars()).all(alike)
}

#[track_caller]
fn as_documented(what: &str, documented: &str, answered: &Value, missing: &[&str]) {
    let faults = differences(documented, answered, missing);
    assert!(faults.is_empty(), "{what}: {faults:#?}\n{answered:#}");
}

/// Works long enough to be measured.
const SOURCE: &str = "
import logging
def handler(input, context):
    logging.getLogger('shop').warning('at it', extra={'n': 1})
    context.progress(50)
    context.metric('tokens', 7)
    held = bytearray(8 << 20)
    if input.get('bad'):
        raise ValueError('bad')
    return {'sum': sum(range(300000)), 'held': len(held)}
";

async fn metrics(client: &Client, of: &Value) -> Value {
    let day = &of["performance"]["started_at"].as_str().expect("a time")[..10];
    let path = format!(
        "/api/v1/agents/used/metrics?start_time={day}T00:00:00Z&end_time={day}T23:59:59Z&granularity=1m"
    );
    let mut metrics = client.get(&path).await.ok();
    // In a bucket where nothing ran, nothing was measured.
    let counts = metrics["metrics"]["execution_count"].clone();
    let ran = |at: usize| counts[at]["value"].as_u64() > Some(0);
    for series in metrics["metrics"]
        .as_object_mut()
        .expect("series")
        .values_mut()
    {
        let mut at = 0..;
        let buckets = series.as_array_mut().expect("buckets");
        buckets.retain(|_| at.next().is_some_and(ran));
    }
    metrics
}

#[tokio::test]
async fn every_field_of_the_document_has_a_true_value() {
    let options = Options::default()
        .set("PHALANX__WEBHOOKS__PRIVATE", "127.0.0.0/8:*")
        .set(
            "PHALANX__GATEWAY__DASHBOARD_URL",
            "https://figures.example/d?agent={agent_id}",
        );
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let changes = json!({
        "agent_metadata": {"description": "is used", "tags": ["a"]},
        "agent_code": {"configuration": {"memory_limit": 256}},
        "deployment_config": {"security": {
            "iam_role_arn": "arn:aws:iam::1:role/r",
            "vpc_config": {"subnet_ids": ["subnet-1"], "security_group_ids": ["sg-1"]},
        }},
    });
    let body = fixtures::with(fixtures::agent("used", SOURCE), changes);
    let deployed = client.deployed(&body).await;
    as_documented("1.1", DEPLOYED, &deployed, &[]);
    let page = &deployed["monitoring"]["dashboard_url"];
    assert_eq!(page, "https://figures.example/d?agent=used");
    let refused = client.deploy(&json!({})).await;
    as_documented("1.1, refused", ERROR, &refused.body(), &[]);

    let mut sync = json!(null);
    for _ in 0..3 {
        sync = client.execute("used", json!({})).await;
        as_documented("3.1, sync", SYNC, &sync, &[]);
    }
    let bad = client.execute("used", json!({"bad": true})).await;
    as_documented("3.1, failed", SYNC, &bad, &["result.output"]);
    let wanted =
        json!({"execution_options": {"async": true, "callback_url": "http://127.0.0.1:9/hook"}});
    let wanted = fixtures::with(fixtures::call(json!({})), wanted);
    let queued = client.execute_with("used", &wanted).await.ok();
    as_documented("3.1, async", ASYNC, &queued, &[]);

    let id = |of: &Value| of["execution_id"].as_str().expect("an id").to_owned();
    let ended = client.execution_end("used", &id(&queued)).await;
    as_documented("3.2", EXECUTION, &ended, &["result.error"]);
    let failed = client.execution("used", &id(&bad)).await;
    as_documented("3.2, failed", EXECUTION, &failed, &["result.output"]);

    let deployment = deployed["deployment_id"].as_str().expect("an id");
    let path = format!("/api/v1/agents/used/deployments/{deployment}");
    as_documented("1.3", DEPLOYMENT, &client.get(&path).await.ok(), &[]);
    let agents = client.get("/api/v1/agents").await.ok();
    as_documented("2.1", AGENTS, &agents, &[]);
    // There is no VPC around an agent here.
    let agent = client.get("/api/v1/agents/used").await.ok();
    as_documented("2.2", AGENT, &agent, &["security.vpc_id"]);

    // What an instance writes counts against its memory; what the network could carry is not known to a host.
    let measured = metrics(client, &sync).await;
    let missing = ["metrics.resource_usage.disk"];
    as_documented("4.1", METRICS, &measured, &missing);
    assert_eq!(measured["summary"]["total_executions"], 5, "{measured:#}");
    let health = wait::until("all is measured", Duration::from_secs(30), || async {
        let health = client.get("/api/v1/system/health").await.ok();
        let missing = ["capacity.resource_utilization.network"];
        match differences(HEALTH, &health, &missing) {
            faults if faults.is_empty() => Ok(health),
            faults => Err(format!("{faults:#?}\n{health:#}")),
        }
    })
    .await;
    assert_eq!(health["capacity"]["total_agents"], 1, "{health:#}");

    // 1.2 answers as 1.1 does; secrets are shown once.
    let update = json!({"deployment_strategy": "rolling"});
    let put = "/api/v1/agents/used/versions/1.0.0";
    let updated = client.change(reqwest::Method::PUT, put, &update).await.ok();
    let missing = ["security.api_key", "security.webhook_secret"];
    as_documented("1.2", DEPLOYED, &updated, &missing);
    client.deployment_end(&updated).await;
}

#[test]
fn what_differs_is_found() {
    let answered =
        json!({"execution_id": "", "status": "done", "status_url": 1, "callback_url": null});
    let mut found = differences(ASYNC, &answered, &[]);
    found.sort();
    let wanted = [
        "callback_url: null",
        "estimated_completion: is not there",
        "execution_id: \"\" is no string ()",
        "status: \"done\" is no string (queued|running)",
        "status_url: 1 is no string ()",
    ];
    assert_eq!(found, wanted);
    assert!(
        of_kind("number (0-1)", &json!(1.1)).is_err() && of_kind("integer", &json!(1.0)).is_err()
    );
    assert!(of_kind("string (ISO 8601, nullable)", &json!(null)).is_ok());
    assert!(of_kind("string (ISO 8601)", &json!("2026-01-31 09:30")).is_err());
}
