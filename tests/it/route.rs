//! A way to a server that a test can cut: a port of its own, whose connections are handed on.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Connections that are open, and whether new ones are handed on.
#[derive(Default)]
struct Ends {
    is_cut: bool,
    open: Vec<TcpStream>,
}

/// The way to a server.
pub(crate) struct Route {
    pub(crate) port: u16,
    ends: Arc<Mutex<Ends>>,
}

impl Route {
    /// The way to what listens on a port of this machine.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("localhost", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ends = Arc::new(Mutex::new(Ends::default()));
        let shared = Arc::clone(&ends);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut ends = shared.lock().unwrap();
                // What was cut off is closed at once.
                if !ends.is_cut
                    && let Ok(far) = TcpStream::connect(("localhost", server))
                {
                    ends.open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                    hand_on(near.try_clone().unwrap(), far.try_clone().unwrap());
                    hand_on(far, near);
                }
            }
        });
        Self { port, ends }
    }

    /// Cuts what is open, and lets nothing through any more.
    pub(crate) fn cut(&self) {
        let mut ends = self.ends.lock().unwrap();
        ends.is_cut = true;
        for end in ends.open.drain(..) {
            let _gone_before = end.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.ends.lock().unwrap().is_cut = false;
    }
}

fn hand_on(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _cut = std::io::copy(&mut from, &mut to);
        let _gone_before = to.shutdown(Shutdown::Both);
    });
}
