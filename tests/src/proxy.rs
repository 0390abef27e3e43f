//! A wire that can be cut: what the program under test reaches through it answers, or is silent, as a test wants it.

use std::net::SocketAddr;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// From a free port to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (cut, is_cut) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            loop {
                while wires.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                wires.spawn(carry(stream, to, is_cut.clone()));
            }
        });
        Self {
            address,
            cut,
            _tasks: tasks,
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts every wire; new ones are not answered until it is mended.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn carry(mut stream: TcpStream, to: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    // While it is cut, whoever connects hears nothing, as behind a firewall that drops.
    if is_cut.wait_for(|cut| !*cut).await.is_err() {
        return;
    }
    let Ok(mut other) = TcpStream::connect(to).await else {
        return;
    };
    // Small writes are what is measured and waited for.
    let _ = (stream.set_nodelay(true), other.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut stream, &mut other) => {}
        _ = is_cut.wait_for(|cut| *cut) => {}
    }
}
