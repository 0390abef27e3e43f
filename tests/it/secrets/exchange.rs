//! Master keys are exchanged while agents run, and nothing depends on the old one afterwards.

use phalanx_tests::{Cluster, Options, Shape, Value, json, program, wait};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

const WITHIN: Duration = Duration::from_secs(90);
/// Tells its variable.
const TELLS: &str = "import os\n\ndef handler(input):\n    return os.environ['TOKEN']\n";

struct World {
    cluster: Cluster,
    key_file: PathBuf,
    /// For commands of the operator.
    environment: Vec<(String, String)>,
}

impl World {
    async fn embedded() -> Self {
        let cluster = Cluster::embedded(Options::default()).await;
        let dir = cluster.data_dir();
        Self {
            key_file: dir.join("master.key"),
            environment: vec![("PHALANX_DATA_DIR".to_owned(), dir.display().to_string())],
            cluster,
        }
    }

    async fn many() -> Self {
        let cluster = Cluster::many(Shape::SMALL, Options::default()).await;
        let key_file = cluster.base().join("master.key");
        let owner = cluster.backing.as_ref().expect("a cluster").owner_url();
        let environment = [
            ("PHALANX__MASTER_KEY_FILE", key_file.display().to_string()),
            ("PHALANX__STORE__URL", owner),
        ];
        Self {
            cluster,
            key_file,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program::phalanx());
        command.args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn try_say(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .expect("the program starts")
    }

    #[track_caller]
    fn say(&self, arguments: &[&str]) -> String {
        let output = self.try_say(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}{words}");
        said
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.try_say(arguments);
        assert!(!output.status.success(), "{arguments:?} went well");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Names of the keys in the file, the first of which seals, each with how many values it sealed.
    fn keys(&self) -> Vec<(String, u64)> {
        let listed = self.say(&["master-key", "list"]);
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let id = words.next()?.to_owned();
            Some((id, words.next()?.parse().ok()?))
        };
        listed.lines().filter_map(line).collect()
    }

    async fn deploy(&self, agent: &str) {
        let more = json!({"deployment_config": {"security": {"environment_variables": {"TOKEN": token(agent)}}}});
        self.cluster.client.deploy_source(agent, TELLS, more).await;
    }

    async fn tells(&self, agent: &str) {
        let output = self.cluster.client.output(agent, json!({})).await;
        assert_eq!(output, Value::from(token(agent)));
    }

    async fn restart(&mut self) {
        for part in &mut self.cluster.parts {
            assert!(part.terminate().success(), "{}", part.tail());
        }
        if self.cluster.backing.is_none() {
            self.cluster.restart().await;
            return;
        }
        for part in &mut self.cluster.parts {
            part.spawn();
        }
        self.cluster.all_ready().await;
    }
}

fn token(agent: &str) -> String {
    format!("the-token-of-{agent}")
}

/// Deployed under one key, gone on with under another: without a restart in between, and without the old key after one.
async fn exchanged(mut world: World) {
    world.deploy("before").await;
    let policy = json!({});
    world
        .cluster
        .client
        .put("/api/v1/alerts/policy", &policy)
        .await
        .ok();
    let [(old, sealed)] = &world.keys()[..] else {
        panic!("{:?}", world.keys());
    };
    let (old, sealed) = (old.clone(), *sealed);
    assert!(
        sealed >= 4,
        "variables, a webhook secret, a policy's, the pepper"
    );

    // Nothing is restarted: the file is read anew.
    let rotated = world.say(&["master-key", "rotate"]);
    let new = rotated.split_whitespace().next().expect("an id").to_owned();
    assert_eq!(world.keys(), [(new.clone(), 0), (old.clone(), sealed)]);
    world.deploy("between").await;
    world.tells("before").await;
    world.tells("between").await;
    let found = world.keys();
    assert!(
        found[0].1 >= 2,
        "what is sealed now is sealed by the new key: {found:?}"
    );

    let words = world.refused(&["master-key", "retire", &old]);
    assert!(words.contains("phalanx reseal"), "{words}");
    let words = world.refused(&["master-key", "retire", &new]);
    assert!(words.contains("seals"), "{words}");
    let words = world.say(&["reseal", "--batch", "2"]);
    assert!(
        words.contains(&format!("done: {sealed} resealed")),
        "{words}"
    );
    let again = world.say(&["reseal"]);
    assert!(again.contains("done: 0 resealed"), "{again}");
    world.say(&["master-key", "retire", &old]);
    let file = fs::read_to_string(&world.key_file).expect("the keys");
    assert!(
        file.contains(&new) && !file.contains(&old),
        "only the new one"
    );

    // Whoever starts now never saw the old key; the first key and the agents' own open what they opened.
    world.restart().await;
    world.tells("before").await;
    world.tells("between").await;
    world.deploy("after").await;
    world.tells("after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_under_one_process() {
    exchanged(World::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_under_a_cluster() {
    exchanged(World::many().await).await;
}

/// A `kill -9` in the middle: what was done is done, what was not is still under the old key, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn resealing_goes_on_after_a_kill() {
    let mut world = World::embedded().await;
    for agent in ["one", "two", "three"] {
        world.deploy(agent).await;
    }
    world.say(&["master-key", "rotate"]);
    let all = world.keys()[1].1;
    let mut child = world
        .command(&["reseal", "--per-second", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
    let first = said.next().expect("it says how far it is").expect("words");
    assert!(first.contains("resealed"), "{first}");
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
    let [(_, new), (old_id, old)] = &world.keys()[..] else {
        panic!("{:?}", world.keys());
    };
    assert!(*new >= 1 && *old >= 1 && new + old == all, "{new} of {all}");
    let left = *old;
    for agent in ["one", "two", "three"] {
        world.tells(agent).await;
    }
    let words = world.say(&["reseal"]);
    assert!(words.contains(&format!("done: {left} resealed")), "{words}");
    world.say(&["master-key", "retire", old_id]);
    world.restart().await;
    for agent in ["one", "two", "three"] {
        world.tells(agent).await;
    }
}

/// A key that is gone is named wherever it is missed; put back, everything is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_named_and_nothing_is_lost() {
    let mut world = World::embedded().await;
    world.deploy("before").await;
    let good = fs::read_to_string(&world.key_file).expect("the key");
    let (id, _) = world.keys()[0].clone();
    assert!(world.cluster.terminate().success());
    fs::write(&world.key_file, "5a".repeat(32)).expect("another key");

    world.cluster.spawn();
    assert!(!world.cluster.ended().success(), "it cannot check any key");
    let log = world.cluster.log();
    assert!(log.contains(&id), "the log names {id}: {log}");
    let words = world.refused(&["reseal"]);
    assert!(words.contains(&id), "{words}");

    // Only the pepper under the present key: an agent's variables cannot be opened, and it says why.
    fs::write(&world.key_file, &good).expect("restored");
    world.cluster.restart().await;
    world.tells("before").await;
    world.say(&["master-key", "rotate"]);
    world.deploy("between").await;
    let both = fs::read_to_string(&world.key_file).expect("two keys");
    let (new, _) = world.keys()[0].clone();
    assert!(world.cluster.terminate().success());
    fs::write(&world.key_file, &good).expect("without the new one");
    world.cluster.restart().await;
    let refused = wait::until("the missing key is named", WITHIN, || async {
        let log = world.cluster.log();
        match log.contains(&format!("sealed by the master key {new}")) {
            true => Ok(log),
            false => Err(log),
        }
    })
    .await;
    assert!(
        !refused.contains(&good.trim()[..32]),
        "the name, not the key"
    );
    fs::write(&world.key_file, both).expect("restored");
    world.tells("before").await;
    wait::until("between serves again", WITHIN, || async {
        let body = json!({"input_data": {"parameters": {}}});
        let path = "/api/v1/agents/between/execute";
        let answer = world.cluster.client.post(path, &body).await;
        match answer.status {
            200 => Ok(()),
            _ => Err(answer.text),
        }
    })
    .await;
    world.tells("between").await;
}

#[test]
fn keys_are_prepared_before_they_seal() {
    let dir = std::env::temp_dir().join(format!("phalanx-keys-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&dir).expect("a folder");
    let path = dir.join("keys");
    let say = |arguments: &[&str]| {
        let mut command = Command::new(program::phalanx());
        command
            .args(arguments)
            .env("PHALANX__MASTER_KEY_FILE", &path);
        command.output().expect("the program starts")
    };
    let key = say(&["master-key"]).stdout;
    fs::write(&path, &key).expect("a file");
    let added = String::from_utf8(say(&["master-key", "add"]).stdout).expect("words");
    let id = added.split_whitespace().next().expect("an id").to_owned();
    let text = || fs::read_to_string(&path).expect("the keys");
    assert_eq!(text().lines().position(|line| line.contains(&id)), Some(1));
    assert!(say(&["master-key", "rotate", &id]).status.success());
    assert_eq!(text().lines().position(|line| line.contains(&id)), Some(0));
    assert!(
        text().contains(String::from_utf8_lossy(&key).trim()),
        "the first is kept"
    );
    let bad = say(&["master-key", "rotate", "mk_12"]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("16 hex digits"));
    fs::remove_dir_all(dir).expect("removed");
}
