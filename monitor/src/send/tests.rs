//! The sender over a store of its own, with receivers on this host and resolvers of ours.

use super::*;
use domain::{
    Timestamp,
    execution::{Caller, Mode, Options, Priority, Status, Usage},
    id::{AccountId, AgentId, DeliveryId, VersionId},
    retry,
    webhook::{Openness, Status as Sent},
};
use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};
use store::{
    Place, Secrets,
    deliveries::{Attempt, New},
    executions::{self, End, Key},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const WITHIN: Duration = Duration::from_secs(240);

struct World {
    store: Store,
    directory: PathBuf,
    next: AtomicUsize,
}

impl World {
    async fn new() -> Self {
        let name = uuid::Uuid::now_v7().as_simple().to_string();
        let directory = env::temp_dir().join(format!("phalanx-send-{name}"));
        fs::create_dir_all(&directory).expect("a directory for the test");
        let file = store::Config::Sqlite {
            path: directory.join("store.db"),
        };
        let secrets = Secrets::new(&[7; 32]).expect("32 bytes");
        Self {
            store: Store::open(&file, secrets).await.expect("opens"),
            directory,
            next: AtomicUsize::new(1),
        }
    }

    fn sender(&self, open: &str, bytes: u64, resolver: Resolver) -> Sender {
        let rules = open.split_whitespace().map(str::parse);
        let rules: Result<Vec<_>, _> = rules.collect();
        let config = Config {
            webhooks: Openness {
                private: rules.expect("rules").into(),
            },
            webhook_bytes: bytes,
            ..Config::default()
        };
        Sender::new(&config, &self.store, resolver)
    }

    /// One callback of an execution of its own, due now.
    async fn kept(&self, account: &str, url: &str, body: String) -> DeliveryId {
        let place = Place::alert_policy(&account.parse().expect("an id"), "inc");
        let secret = self
            .store
            .seal(&place, b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        self.kept_with(account, url, body, secret.expect("sealed"))
            .await
    }

    async fn kept_with(
        &self,
        account: &str,
        url: &str,
        body: String,
        secret: Vec<u8>,
    ) -> DeliveryId {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let key = Key {
            account: account.parse().expect("an id"),
            agent_id: agent(),
            id: format!("e{number}").parse().expect("an id"),
        };
        let (new, end) = execution(&key, url);
        let store = &self.store;
        assert!(store.insert_execution(new).await.expect("writes"));
        assert!(store.end_execution(end).await.expect("writes"));
        let new = New {
            id: DeliveryId::from_uuid(uuid::Uuid::from_u128(number as u128)),
            account: key.account.clone(),
            subject: key.id.to_string(),
            callback: Some((key.agent_id.clone(), key.id.to_string())),
            event: "execution.completed".to_owned(),
            level: 0,
            round: 0,
            url: url.to_owned(),
            body,
            secret,
            sealed_for: "inc".to_owned(),
            created_at: Timestamp(store.now().0 - 1000),
        };
        let kept = store.keep_callback(&key, Some(&new)).await;
        assert!(kept.expect("writes"));
        new.id
    }

    async fn told(&self, account: &str, id: &DeliveryId) -> (Sent, Vec<Attempt>) {
        let account: AccountId = account.parse().expect("an id");
        let told = self.store.callback(&account, &agent(), id).await;
        let (one, attempts) = told.expect("rows").expect("there");
        (one.status, attempts)
    }

    /// As if its time to be tried again had come.
    async fn again(&self, account: &str, id: &DeliveryId) {
        let account: AccountId = account.parse().expect("an id");
        let told = self.store.callback(&account, &agent(), id).await;
        let one = told.expect("rows").expect("there").0;
        let now = self.store.now();
        assert!(self.store.redeliver(&one, 100, now).await.expect("writes"));
    }

    async fn close(self) {
        self.store.close().await;
        fs::remove_dir_all(&self.directory).expect("the test's directory");
    }
}

fn agent() -> AgentId {
    "echo".parse().expect("an id")
}

fn execution(key: &Key, url: &str) -> (executions::New, End) {
    let new = executions::New {
        key: key.clone(),
        version_id: VersionId::from_uuid(uuid::Uuid::from_u128(1)),
        mode: Mode::Async,
        priority: Priority::Normal,
        body_digest: None,
        caller: Caller::default(),
        options: Options {
            mode: Mode::Async,
            priority: Priority::Normal,
            timeout_s: 30,
            retry: retry::Policy::default(),
            retry_explicit: false,
            trace: true,
            callback_url: Some(url.to_owned()),
        },
        input: serde_json::value::RawValue::from_string("{}".into()).expect("JSON"),
        accepted_at: Timestamp(1000),
    };
    let end = End {
        key: key.clone(),
        attempt: 1,
        status: Status::Completed,
        due_at: Timestamp(1000),
        started_at: Some(Timestamp(1000)),
        completed_at: Some(Timestamp(1500)),
        attempts: Vec::new(),
        instance_id: None,
        output: None,
        error: None,
        duration_ms: 1.0,
        queue_ms: 0.0,
        waterfall: None,
        recording: None,
        usage: Usage::default(),
    };
    (new, end)
}

/// Sends until nothing is on its way and nothing waits for room.
async fn all(sender: &mut Sender) {
    let all = async {
        while sender.begin().await.expect("rows") || !sender.tasks.is_empty() {
            sender.one_ended().await;
        }
    };
    timeout(WITHIN, all).await.expect("in time");
}

/// Answers 204 after a while, and counts what it holds meanwhile.
#[derive(Default)]
struct Held {
    bytes: usize,
    most_bytes: usize,
    /// Bytes of each, and of all that were there with it.
    seen: Vec<(usize, usize)>,
}

struct Receiver {
    url: String,
    held: Arc<Mutex<Held>>,
    _task: JoinSet<()>,
}

impl Receiver {
    async fn start(address: &str, pause: Duration) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let held: Arc<Mutex<Held>> = Arc::default();
        let (mut task, shared) = (JoinSet::new(), held.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, shared.clone(), pause));
            }
        });
        Self {
            url,
            held,
            _task: task,
        }
    }

    fn seen(&self) -> Vec<(usize, usize)> {
        self.held.lock().expect("nobody panicked").seen.clone()
    }

    fn most_bytes(&self) -> usize {
        self.held.lock().expect("nobody panicked").most_bytes
    }
}

async fn answer(mut stream: TcpStream, held: Arc<Mutex<Held>>, pause: Duration) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    let with = || {
        let mut held = held.lock().expect("nobody panicked");
        held.bytes += length;
        held.most_bytes = held.most_bytes.max(held.bytes);
    };
    with();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    tokio::time::sleep(pause).await;
    {
        let mut held = held.lock().expect("nobody panicked");
        let there = held.bytes;
        held.seen.push((length, there));
        held.bytes -= length;
    }
    let text = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    stream.write_all(text.as_bytes()).await.ok();
}

const LOCAL: &str = "127.0.0.0/8:*";

#[tokio::test]
async fn bodies_on_their_way_are_bounded_by_their_bytes() {
    let world = World::new().await;
    let receiver = Receiver::start("127.0.0.1:0", Duration::from_millis(20)).await;
    let budget = 1 << 20;
    let mut sender = world.sender(LOCAL, budget, Resolver::default());
    for n in 0..24 {
        let body = "x".repeat(200_000);
        world
            .kept(&format!("a{}", n % 8), &receiver.url, body)
            .await;
    }
    all(&mut sender).await;
    assert_eq!(receiver.seen().len(), 24, "each once");
    let most = receiver.most_bytes();
    assert!(most <= budget as usize, "{most} bytes at a time");
    assert!(most >= 400_000, "one after the other is not what is meant");
    // Its receivers are known to be prompt: one that is too large goes alone, among many small ones.
    for n in 0..20 {
        world
            .kept(&format!("a{}", n % 8), &receiver.url, "x".repeat(1000))
            .await;
    }
    let large = world.kept("a0", &receiver.url, "x".repeat(3 << 20)).await;
    for n in 0..20 {
        world
            .kept(&format!("a{}", n % 8), &receiver.url, "x".repeat(1000))
            .await;
    }
    all(&mut sender).await;
    assert_eq!(world.told("a0", &large).await.0, Sent::Delivered);
    let seen = receiver.seen();
    assert_eq!(seen.len(), 65);
    let alone = (3 << 20, 3 << 20);
    assert!(seen.contains(&alone), "{seen:?}");
    world.close().await;
}

#[tokio::test]
async fn silent_receivers_of_some_hold_up_nobody_else() {
    let world = World::new().await;
    let mut silent = Vec::new();
    for account in 0..4 {
        for _ in 0..8 {
            // Connected by the kernel, and never answered.
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            silent.push(listener);
            for _ in 0..5 {
                let url = format!("http://{address}/");
                world
                    .kept(&format!("dead{account}"), &url, "{}".to_owned())
                    .await;
            }
        }
    }
    let mut sender = world.sender(LOCAL, 64 << 20, Resolver::default());
    assert!(sender.begin().await.expect("rows"), "not all at once");
    let receiver = Receiver::start("127.0.0.1:0", Duration::ZERO).await;
    let good = world.kept("good", &receiver.url, "{}".to_owned()).await;
    sender.begin().await.expect("rows");
    let sent = async {
        loop {
            let (status, attempts) = world.told("good", &good).await;
            if status == Sent::Delivered {
                break;
            }
            assert_eq!(attempts, [], "at once");
            sender.one_ended().await;
        }
    };
    timeout(WITHIN, sent).await.expect("in time");
    world.close().await;
}

#[tokio::test]
async fn what_can_never_be_sent_is_over_and_says_why() {
    let world = World::new().await;
    let receiver = Receiver::start("127.0.0.1:0", Duration::ZERO).await;
    // More than a look sees.
    let mut sealed = Vec::new();
    for _ in 0..FIRST + 10 {
        let garbage = vec![9; 64];
        sealed.push(
            world
                .kept_with("a", "http://127.0.0.1:9/", "{}".to_owned(), garbage)
                .await,
        );
    }
    let orphan = world
        .kept_with("a", &receiver.url, "{}".to_owned(), Vec::new())
        .await;
    // Ten processes died of it.
    let deadly = world.kept("a", &receiver.url, "{}".to_owned()).await;
    let now = world.store.now();
    for attempts in 0..webhook::ATTEMPTS {
        let due = Due {
            id: deadly.clone(),
            account: "a".parse().expect("an id"),
            host: String::new(),
            attempts,
            tried_before: 0,
            bytes: 2,
        };
        let taken = world.store.take_delivery(&due, now).await;
        assert!(taken.expect("rows").is_some());
    }
    let good = world.kept("b", &receiver.url, "{}".to_owned()).await;
    let mut sender = world.sender(LOCAL, 64 << 20, Resolver::default());
    sender.begin().await.expect("rows");
    let over = async {
        let told = async |account: &str, id: &DeliveryId| world.told(account, id).await.0;
        while told("b", &good).await != Sent::Delivered {
            sender.one_ended().await;
        }
        while [told("a", &orphan).await, told("a", &deadly).await].contains(&Sent::Pending) {
            sender.begin().await.expect("rows");
            sender.one_ended().await;
        }
    };
    timeout(WITHIN, over).await.expect("in time");
    let reason = async |id: &DeliveryId| {
        let (status, attempts) = world.told("a", id).await;
        let last = attempts.last().expect("an attempt");
        (status, last.error.clone().unwrap_or_default())
    };
    let (status, why) = reason(&orphan).await;
    assert_eq!(
        (status, why.contains("its agent is gone")),
        (Sent::Failed, true),
        "{why}"
    );
    let (status, why) = reason(&deadly).await;
    assert_eq!(
        (status, why.contains("never ended")),
        (Sent::Failed, true),
        "{why}"
    );
    // The right master key may come back.
    let (status, why) = reason(&sealed[0]).await;
    assert_eq!(
        (status, why.as_str()),
        (Sent::Pending, "it cannot be signed now")
    );
    assert_eq!(receiver.seen().len(), 1);
    world.close().await;
}

#[tokio::test]
async fn a_resolver_that_takes_its_time_is_not_waited_for() {
    let world = World::new().await;
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let mut resolver = Resolver::of(move |_, port| {
        wait.lock().expect("nobody panicked").recv().ok();
        Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
    });
    resolver.within = Duration::from_millis(50);
    let id = world
        .kept("a", "http://slow.example/", "{}".to_owned())
        .await;
    let mut sender = world.sender(LOCAL, 64 << 20, resolver);
    sender.begin().await.expect("rows");
    let recorded = async {
        loop {
            let (status, mut attempts) = world.told("a", &id).await;
            if let Some(attempt) = attempts.pop() {
                return (status, attempt);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (status, attempt) = timeout(WITHIN, recorded).await.expect("in time");
    assert_eq!(status, Sent::Pending);
    let why = "the receiver's name was not resolved within 0.05 s";
    assert_eq!(attempt.error.as_deref(), Some(why));
    // Its thread is still there: so is its place.
    assert!(
        timeout(Duration::from_millis(50), sender.one_ended())
            .await
            .is_err()
    );
    release.send(()).expect("it waits");
    timeout(WITHIN, sender.one_ended()).await.expect("it ends");
    world.close().await;
}

#[tokio::test]
async fn a_name_that_is_bound_anew_leads_nowhere_else() {
    let world = World::new().await;
    let inside = Receiver::start("127.0.0.1:0", Duration::ZERO).await;
    let port: u16 = inside
        .url
        .trim_matches('/')
        .rsplit(':')
        .next()
        .expect("a port")
        .parse()
        .expect("a number");
    // 127.0.0.2 stands for the public internet: only it may be connected. Nobody listens there, so whoever asks again for the
    // connection is told another address.
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let resolver = Resolver::of(move |_, port| {
        let last = if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            2
        } else {
            1
        };
        Ok(vec![SocketAddr::from(([127, 0, 0, last], port))])
    });
    let url = format!("http://rebind.example:{port}/");
    let id = world.kept("a", &url, "{}".to_owned()).await;
    let mut sender = world.sender(&format!("127.0.0.2/32:{port}"), 64 << 20, resolver);
    all(&mut sender).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1, "an attempt asks once");
    let (_, attempts) = world.told("a", &id).await;
    let why = attempts[0].error.as_deref().expect("nobody is there");
    assert!(why.starts_with("no connection"), "{why}");
    world.again("a", &id).await;
    all(&mut sender).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    let (status, attempts) = world.told("a", &id).await;
    assert_eq!((status, attempts.len()), (Sent::Pending, 2));
    let why = attempts[1].error.as_deref();
    assert_eq!(
        why,
        Some("the receiver's host has no address that webhooks may go to")
    );
    assert_eq!(inside.seen(), [], "it was connected");
    // Both at once: the one that is allowed is connected, and no other although it would answer.
    let both = Resolver::of(move |_, port| {
        Ok([2, 1]
            .map(|last| SocketAddr::from(([127, 0, 0, last], port)))
            .into())
    });
    let mut sender = world.sender(&format!("127.0.0.2/32:{port}"), 64 << 20, both);
    world.again("a", &id).await;
    all(&mut sender).await;
    let (_, attempts) = world.told("a", &id).await;
    let why = attempts[2].error.as_deref().expect("nobody is there");
    assert!(why.starts_with("no connection"), "{why}");
    assert_eq!(inside.seen(), [], "it was connected");
    world.close().await;
}
