//! Handshakes that ask a responder about the peer's certificate, and so cannot be made in a worker's thread.
//!
//! Owns the threads for them: as many as there are such handshakes at a time, up to a limit; none when there is none.

use crate::socket::Socket;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Further handshakes wait for their turn.
const THREADS_MAX: usize = 64;

static POOL: Mutex<Pool> = Mutex::new(Pool { threads: 0, waiting: VecDeque::new() });

struct Pool {
    threads: usize,
    waiting: VecDeque<Arc<Socket>>,
}

/// Goes on with the handshake of a socket that [`Socket::take_verification`] said so of.
pub fn spawn(socket: Arc<Socket>) {
    let mut pool = POOL.lock();
    pool.waiting.push_back(socket);
    if pool.threads < THREADS_MAX {
        pool.threads += 1;
        let spawned = std::thread::Builder::new().name("verification".into()).spawn(run);
        if let Err(error) = spawned {
            pool.threads -= 1;
            tracing::error!("no thread to check a certificate in: {error}");
        }
    }
}

fn run() {
    loop {
        let socket = {
            let mut pool = POOL.lock();
            match pool.waiting.pop_front() {
                Some(socket) => socket,
                None => {
                    pool.threads -= 1;
                    return;
                }
            }
        };
        socket.verify();
    }
}
