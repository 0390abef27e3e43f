//! What honest agents need works on inside: a package with compiled parts, its threads, and processes beside them.

use phalanx_tests::{Cluster, fixtures, json};

const SOURCE: &str = r#"
import asyncio, multiprocessing, sqlite3, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

import numpy

def square(n):
    return n * n

async def handler(input):
    matrix = numpy.arange(250_000, dtype=float).reshape(500, 500)
    with ThreadPoolExecutor(4) as pool:
        traces = list(pool.map(lambda k: float(numpy.trace(matrix @ numpy.eye(500) * k)), range(4)))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        squares = await asyncio.to_thread(pool.map, square, range(4))
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", "print(6 * 7)", stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    with sqlite3.connect("/tmp/numbers.db") as db:
        db.execute("create table if not exists n (n)")
        db.execute("insert into n values (?)", (traces[1],))
        rows = db.execute("select count(*) from n").fetchone()[0]
    shell = subprocess.run(["/bin/sh", "-c", "echo $((1 + 1))"], capture_output=True, text=True, check=True)
    return {"trace": traces[1], "squares": squares, "told": int(told), "rows": rows, "shell": shell.stdout.strip()}
"#;

#[tokio::test]
async fn numpy_and_its_company() {
    let cluster = Cluster::start().await;
    let changes = json!({"agent_code": {"dependencies": {"python": ["numpy"]}, "configuration": {"memory_limit": 512}}});
    let body = fixtures::with(fixtures::agent("numbers", SOURCE), changes);
    cluster.client.deployed(&body).await;
    let output = cluster.client.output("numbers", json!({})).await;
    let expected = json!({"trace": 62_499_750.0, "squares": [0, 1, 4, 9], "told": 42, "rows": 1, "shell": "2"});
    assert_eq!(output, expected);
}
