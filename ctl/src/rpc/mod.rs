//! The control socket: one thread that does all its input and output, so that no client, however slow
//! or hostile, holds up the control thread, the workers or another client.
//!
//! Whole requests go to the control thread over a bounded queue; its replies come back through an
//! [`Outbox`] that never blocks. Everything a client can grow has a limit ([`Limits`]) and a policy: a
//! request or reply that is too long is answered by an error; a client that does not finish a request
//! or read its reply is closed; when all places are taken, the client that was idle longest gives way.

mod client;
pub mod proto;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value as Json;
use serde_json::value::RawValue;

pub use proto::{ErrorBody, ErrorData, RequestId};

use crate::error::CtlError;

/// Everything that is bounded.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients at a time.
    pub clients: usize,
    /// Longest request, bytes.
    pub request_bytes: usize,
    /// Unfinished requests of all clients together, bytes.
    pub requests_bytes: usize,
    /// Longest reply, bytes.
    pub reply_bytes: usize,
    /// Replies that have not left, of all clients together, bytes.
    pub replies_bytes: usize,
    /// Events that wait for one client, bytes; more are lost and counted.
    pub events_bytes: usize,
    /// Requests that wait for the control thread.
    pub requests_waiting: usize,
    /// From the first byte of a request to its end.
    pub request_time: Duration,
    /// Without a byte of the reply being read.
    pub stall_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 256,
            request_bytes: 64 << 20,
            requests_bytes: 256 << 20,
            reply_bytes: 256 << 20,
            replies_bytes: 512 << 20,
            events_bytes: 4 << 20,
            requests_waiting: 512,
            request_time: Duration::from_secs(30),
            stall_time: Duration::from_secs(30),
        }
    }
}

/// A client, for as long as it is connected; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(usize);

/// What the control thread is told.
#[derive(Debug)]
pub enum Incoming {
    Request(Request),
    /// The client of a request that has no reply yet is gone: a stream to it can end.
    Gone(ClientId),
}

/// A request to be answered by [`Outbox::reply`].
#[derive(Debug)]
pub struct Request {
    pub client: ClientId,
    pub id: RequestId,
    pub method: String,
    pub params: Json,
}

#[derive(Debug)]
enum Outgoing {
    Reply(ClientId, RequestId, Result<Box<RawValue>, ErrorBody>),
    Event(ClientId, RequestId, Box<RawValue>),
}

/// Where the control thread puts what clients shall get. Never blocks.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: Sender<Outgoing>,
    waker: Arc<mio::Waker>,
}

impl Outbox {
    /// Answers a request. A client that is gone by now is no error.
    pub fn reply(&self, client: ClientId, id: RequestId, result: Result<Box<RawValue>, ErrorBody>) {
        self.send(Outgoing::Reply(client, id, result));
    }

    /// Sends an event of a request that is still open. Ends with [`Outbox::reply`].
    pub fn event(&self, client: ClientId, id: RequestId, event: Box<RawValue>) {
        self.send(Outgoing::Event(client, id, event));
    }

    fn send(&self, outgoing: Outgoing) {
        if self.sender.send(outgoing).is_ok()
            && let Err(e) = self.waker.wake()
        {
            tracing::error!("cannot wake the socket thread: {e}");
        }
    }
}

/// The listening socket and its thread.
#[derive(Debug)]
pub struct Server {
    incoming: Receiver<Incoming>,
    waiting: Arc<AtomicUsize>,
    outbox: Outbox,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path` and starts the thread. The caller holds the run directory's lock: a socket
    /// that is there belongs to no one and is replaced. `wake` is called when something has come in.
    pub fn start(
        path: &Path,
        limits: Limits,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Self, CtlError> {
        let failed = |e: std::io::Error| {
            CtlError::system(format!("cannot serve the control socket {}: {e}", path.display()))
        };
        let poll = mio::Poll::new().map_err(failed)?;
        let waker = mio::Waker::new(poll.registry(), server::WAKER).map_err(failed)?;
        let (sender, outgoing) = mpsc::channel();
        let (to_control, incoming) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let listener = server::listen(path)?;
        let to_control = server::ToControl {
            sender: to_control,
            waiting: Arc::clone(&waiting),
            limit: limits.requests_waiting,
            wake: Box::new(wake),
        };
        let reactor =
            server::Reactor::new(poll, listener, limits, outgoing, to_control, Arc::clone(&stop))
                .map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("socket".to_owned())
            .spawn(move || reactor.run())
            .map_err(failed)?;
        let outbox = Outbox { sender, waker: Arc::new(waker) };
        Ok(Self { incoming, waiting, outbox, stop, thread: Some(thread) })
    }

    /// What came in, if anything.
    pub fn try_recv(&self) -> Option<Incoming> {
        match self.incoming.try_recv() {
            Ok(incoming) => {
                if matches!(incoming, Incoming::Request(_)) {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Some(incoming)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// False when the thread ended without being told to: a defect.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }
}

impl Drop for Server {
    /// Stops the thread, which writes for a moment what is ready, and removes the socket.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.outbox.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the socket thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
