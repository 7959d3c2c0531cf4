//! A way to the server that breaks at the worst moment: when a commit is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the connection breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Break {
    /// The server never hears of the commit.
    BeforeCommit,
    /// The server commits, and its answer is lost.
    AfterCommit,
}

/// A way that breaks at the first `times` commits; its port, and how many it has broken.
pub(super) async fn open(port: u16, at: Break, times: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let broken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&broken);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(carry(client, server, at, times, Arc::clone(&counter)));
        }
    });
    (own, broken)
}

async fn carry(mut client: TcpStream, mut server: TcpStream, at: Break, times: usize, broken: Arc<AtomicUsize>) {
    let (mut asked, mut answered) = ([0; 65_536], [0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                // The commit is asked for alone, once the statement was answered.
                let is_commit = asked[..length].windows(7).any(|bytes| bytes == b"COMMIT\0");
                let breaks = is_commit && broken.fetch_add(1, Ordering::SeqCst) < times;
                if breaks && at == Break::BeforeCommit {
                    return;
                }
                if server.write_all(&asked[..length]).await.is_err() {
                    return;
                }
                if breaks {
                    // Its answer means that it is done; the client does not get it.
                    let _answer = server.read(&mut answered).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
