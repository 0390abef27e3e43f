//! A TCP proxy in front of the server whose connections can be cut: the network on a bad day.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

pub struct Proxy {
    pub url: String,
    cut: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn in_front_of(url: &str) -> Self {
        let server = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let cut = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, Arc::clone(&cut)));
        Self {
            url,
            cut,
            _tasks: tasks,
        }
    }

    /// Ends every connection; new ones are let through.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn accept(listener: TcpListener, server: String, cut: Arc<Notify>) {
    let mut connections = JoinSet::new();
    while let Ok((mut inside, _)) = listener.accept().await {
        let (server, cut) = (server.clone(), Arc::clone(&cut));
        connections.spawn(async move {
            let Ok(mut outside) = TcpStream::connect(server).await else {
                return;
            };
            tokio::select! {
                () = cut.notified() => {}
                _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => {}
            }
        });
    }
}
