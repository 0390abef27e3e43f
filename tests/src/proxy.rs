//! A wire that can be cut or held: what the program under test reaches through it answers, is gone, or is silent, as a test wants it.

use std::net::SocketAddr;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    Cut,
    Held,
}

#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// From a free port to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (wire, is) = watch::channel(Wire::Whole);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut wires = JoinSet::new();
            loop {
                while wires.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                wires.spawn(carry(stream, to, is.clone()));
            }
        });
        Self {
            address,
            wire,
            _tasks: tasks,
        }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts every wire; new ones are not answered until it is mended.
    pub fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Nothing passes and nobody is told, as when the other host has lost its power; what was on its way comes when it is mended.
    pub fn hold(&self) {
        self.wire.send_replace(Wire::Held);
    }

    pub fn mend(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

async fn carry(mut stream: TcpStream, to: SocketAddr, mut is: watch::Receiver<Wire>) {
    // Until it is whole, whoever connects hears nothing, as behind a firewall that drops.
    if is.wait_for(|wire| *wire == Wire::Whole).await.is_err() {
        return;
    }
    let Ok(mut other) = TcpStream::connect(to).await else {
        return;
    };
    // Small writes are what is measured and waited for.
    let _ = (stream.set_nodelay(true), other.set_nodelay(true));
    let mut carrying = std::pin::pin!(copy_bidirectional(&mut stream, &mut other));
    loop {
        tokio::select! {
            _ = &mut carrying => return,
            told = is.wait_for(|wire| *wire != Wire::Whole) => match told.map(|wire| *wire) {
                Ok(Wire::Held) => {}
                Ok(Wire::Whole | Wire::Cut) | Err(_) => return,
            },
        }
        match is
            .wait_for(|wire| *wire != Wire::Held)
            .await
            .map(|wire| *wire)
        {
            Ok(Wire::Whole) => {}
            Ok(Wire::Held | Wire::Cut) | Err(_) => return,
        }
    }
}
