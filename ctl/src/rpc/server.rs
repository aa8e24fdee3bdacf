//! The thread behind the control socket: accepts, reads, passes on, writes, and lets go. See the parent
//! module for the rules.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};

use super::client::{Client, Input};
use super::proto::{self, ErrorBody, RequestId};
use super::{ClientId, Incoming, Limits, Outgoing, Request};
use crate::error::CtlError;

const LISTENER: Token = Token(0);
pub(super) const WAKER: Token = Token(1);
/// Tokens of clients count up from here.
const FIRST_CLIENT: usize = 2;
/// The group that may use the socket beside root.
const GROUP: &str = "vswitch";
/// Longest path of a socket, bytes (`unix(7)`, less the terminating zero).
const PATH_LIMIT: usize = 107;
/// How long replies that are ready may still be written after the end was asked for.
const PARTING_TIME: Duration = Duration::from_millis(300);
/// How long accepting rests after the system refused a connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The way to the control thread.
pub(super) struct ToControl {
    pub(super) sender: Sender<Incoming>,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) limit: usize,
    pub(super) wake: Box<dyn Fn() + Send>,
}

impl ToControl {
    fn request(&self, request: Request) -> Result<(), ErrorBody> {
        if self.waiting.load(Ordering::Relaxed) >= self.limit {
            let message = format!("{} requests are waiting already, try again", self.limit);
            return Err(CtlError::system(message).into());
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.sender.send(Incoming::Request(request)).is_err() {
            return Err(CtlError::system("the daemon is stopping").into());
        }
        (self.wake)();
        Ok(())
    }

    fn gone(&self, client: ClientId) {
        if self.sender.send(Incoming::Gone(client)).is_ok() {
            (self.wake)();
        }
    }
}

/// A bound socket that removes its file when it goes.
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds at `path` with mode 0660, for the group `vswitch` if there is one. The socket appears under
/// its name only when its permissions are right.
pub(super) fn listen(path: &Path) -> Result<Listener, CtlError> {
    let failed = |what: &str, e: io::Error| {
        CtlError::system(format!("cannot {what} the control socket {}: {e}", path.display()))
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    if temporary.as_os_str().len() > PATH_LIMIT {
        return Err(CtlError::invalid(format!(
            "the control socket's path {} is too long for a socket: choose a shorter --run-dir",
            path.display()
        )));
    }
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("make", e)),
        _ => {}
    }
    let socket = UnixListener::bind(&temporary).map_err(|e| failed("make", e))?;
    let ready = || -> io::Result<()> {
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660))?;
        if let Some(gid) =
            group_id(&std::fs::read_to_string("/etc/group").unwrap_or_default(), GROUP)
            && let Err(e) = chown(&temporary, None, Some(gid))
        {
            tracing::warn!("cannot give {} to group {GROUP}: {e}", path.display());
        }
        std::fs::rename(&temporary, path)
    };
    if let Err(e) = ready() {
        let _ = std::fs::remove_file(&temporary);
        return Err(failed("set up", e));
    }
    Ok(Listener { socket, path: path.to_owned() })
}

/// The number of group `name` in the text of `group(5)`.
fn group_id(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The thread's state.
pub(super) struct Reactor {
    poll: Poll,
    listener: Listener,
    limits: Limits,
    outgoing: Receiver<Outgoing>,
    control: ToControl,
    stop: Arc<AtomicBool>,
    clients: HashMap<usize, Client<UnixStream>>,
    next: usize,
    /// Connections may be waiting to be accepted.
    acceptable: bool,
    rest_until: Option<Instant>,
}

impl Reactor {
    pub(super) fn new(
        poll: Poll,
        mut listener: Listener,
        limits: Limits,
        outgoing: Receiver<Outgoing>,
        control: ToControl,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        poll.registry().register(&mut listener.socket, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            limits,
            outgoing,
            control,
            stop,
            clients: HashMap::new(),
            next: FIRST_CLIENT,
            acceptable: false,
            rest_until: None,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop.load(Ordering::Acquire) {
            let timeout = self.timeout(Instant::now());
            if !self.wait(&mut events, timeout) {
                return;
            }
            let now = Instant::now();
            self.take_events(&events);
            self.take_outgoing(now);
            self.accept(now);
            self.serve(now);
            self.let_go_of_late(now);
        }
        self.part(&mut events);
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> bool {
        match self.poll.poll(events, timeout) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                true
            }
            Err(e) => {
                tracing::error!("the control socket's poll failed: {e}");
                false
            }
        }
    }

    /// How long may be waited: not at all while someone has work, else until the next deadline.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let rested = self.rest_until.is_none_or(|until| until <= now);
        let work = self.clients.values().any(Client::has_input) || (self.acceptable && rested);
        if work {
            return Some(Duration::ZERO);
        }
        let late = self.clients.values().filter_map(|c| c.deadline(&self.limits)).map(|(at, _)| at);
        let next = late.chain(self.rest_until).min()?;
        // Rounded up, as poll's milliseconds would otherwise turn the last one into a busy loop.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }

    fn take_events(&mut self, events: &Events) {
        for event in events {
            match event.token() {
                LISTENER => self.acceptable = true,
                WAKER => {}
                Token(token) => {
                    if let Some(client) = self.clients.get_mut(&token) {
                        client.readable |= event.is_readable() || event.is_read_closed();
                        client.hung_up |= event.is_write_closed();
                    }
                }
            }
        }
    }

    fn take_outgoing(&mut self, now: Instant) {
        while let Ok(outgoing) = self.outgoing.try_recv() {
            match outgoing {
                Outgoing::Reply(id, request, result) => {
                    let Some(client) = self.clients.get_mut(&id.0) else { continue };
                    let mut document = proto::reply(&request, &result);
                    if document.len() > self.limits.reply_bytes {
                        let message = format!(
                            "the answer has {} bytes, more than {}: ask for less",
                            document.len(),
                            self.limits.reply_bytes
                        );
                        document = proto::reply(&request, &Err(CtlError::system(message).into()));
                    }
                    client.busy = false;
                    client.queue(document, now);
                    self.make_room_for_replies(id.0);
                }
                Outgoing::Event(id, request, event) => {
                    let Some(client) = self.clients.get_mut(&id.0) else { continue };
                    if client.outbound_bytes() > self.limits.events_bytes {
                        client.lost += 1;
                    } else {
                        let lost = std::mem::take(&mut client.lost);
                        client.queue(proto::event(&request, lost, &event), now);
                    }
                }
            }
        }
    }

    /// Closes the slowest readers while more waits to be written than is allowed; `spared` is last.
    fn make_room_for_replies(&mut self, spared: usize) {
        while self.clients.values().map(Client::outbound_bytes).sum::<usize>()
            > self.limits.replies_bytes
        {
            let slowest = self
                .clients
                .iter()
                .filter(|(_, c)| c.outbound_bytes() > 0)
                .min_by_key(|(token, c)| (**token == spared, c.stalled_since()))
                .map(|(token, _)| *token);
            let Some(token) = slowest else { return };
            self.close(token, "is the slowest reader and there is no memory for more replies");
        }
    }

    /// Closes who has sent unfinished requests for longest while they are too much together.
    fn make_room_for_requests(&mut self) {
        while self.clients.values().map(Client::inbound_bytes).sum::<usize>()
            > self.limits.requests_bytes
        {
            let oldest = self
                .clients
                .iter()
                .filter(|(_, c)| c.inbound_bytes() > 0)
                .min_by_key(|(_, c)| c.deadline(&self.limits).map(|(at, _)| at))
                .map(|(token, _)| *token);
            let Some(token) = oldest else { return };
            self.close(token, "has an unfinished request and there is no memory for more");
        }
    }

    fn accept(&mut self, now: Instant) {
        if self.rest_until.is_some_and(|until| until > now) {
            return;
        }
        self.rest_until = None;
        // Bounded, so that a flood of connections does not keep the others waiting.
        for _ in 0..64 {
            if !self.acceptable {
                return;
            }
            match self.listener.socket.accept() {
                Ok((stream, _)) => self.admit(stream, now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::warn!("cannot accept a client: {e}");
                    self.evict_idle("makes room as the system has no more");
                    self.rest_until = Some(now + ACCEPT_REST);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, now: Instant) {
        if self.clients.len() >= self.limits.clients
            && !self.evict_idle("was idle longest and another client came")
        {
            let message = format!("{} clients are waiting for replies", self.limits.clients);
            let refusal = proto::reply(
                &RequestId(serde_json::Value::Null),
                &Err(CtlError::system(message).into()),
            );
            let _ = io::Write::write(&mut stream, &refusal);
            return;
        }
        let token = self.next;
        self.next += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(&mut stream, Token(token), interest) {
            Ok(()) => drop(self.clients.insert(token, Client::new(stream, now))),
            Err(e) => tracing::warn!("cannot take a client: {e}"),
        }
    }

    /// Closes the client that has been idle longest. False when all wait for replies.
    fn evict_idle(&mut self, why: &str) -> bool {
        let idle = self.clients.iter().filter_map(|(t, c)| Some((c.idle_since()?, *t))).min();
        match idle {
            Some((_, token)) => {
                self.close(token, why);
                true
            }
            None => false,
        }
    }

    /// Every client a turn: write, read, pass on.
    fn serve(&mut self, now: Instant) {
        let tokens: Vec<usize> = self.clients.keys().copied().collect();
        for token in tokens {
            let Some(client) = self.clients.get_mut(&token) else { continue };
            if let Err(e) = client.flush(now) {
                tracing::debug!("client {token}: {e}");
                self.close(token, "is gone");
                continue;
            }
            if let Err(e) = self.serve_input(token, now) {
                tracing::debug!("client {token}: {e}");
                self.close(token, "is gone");
                continue;
            }
            if self.clients.get(&token).is_some_and(Client::is_done) {
                self.close(token, "is done");
            }
        }
        self.make_room_for_requests();
    }

    fn serve_input(&mut self, token: usize, now: Instant) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&token) else { return Ok(()) };
        if !client.wants_input() {
            let gone = client.hung_up && !client.closing;
            return if gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) };
        }
        match client.read(&self.limits, now)? {
            Input::Waiting | Input::Again | Input::Closed => Ok(()),
            Input::TooLong => {
                let limit = self.limits.request_bytes;
                let message = format!("the request is longer than {limit} bytes");
                let body = ErrorBody::new(proto::code::REQUEST, CtlError::protocol(message));
                client.closing = true;
                client.queue(proto::reply(&RequestId(serde_json::Value::Null), &Err(body)), now);
                client.flush(now)
            }
            Input::Line(line) => {
                let refused = match proto::parse(&line) {
                    Ok(parsed) => {
                        let id = parsed.id.clone();
                        let request = Request {
                            client: ClientId(token),
                            id: parsed.id,
                            method: parsed.method,
                            params: parsed.params,
                        };
                        self.control.request(request).err().map(|body| (id, body))
                    }
                    Err(refused) => Some((refused.id, refused.body)),
                };
                match refused {
                    None => client.busy = true,
                    Some((id, body)) => client.queue(proto::reply(&id, &Err(body)), now),
                }
                client.flush(now)
            }
        }
    }

    fn let_go_of_late(&mut self, now: Instant) {
        let late = |(token, client): (&usize, &Client<UnixStream>)| {
            let (at, what) = client.deadline(&self.limits)?;
            (at <= now).then_some((*token, what))
        };
        let late: Vec<_> = self.clients.iter().filter_map(late).collect();
        for (token, what) in late {
            self.close(token, &format!("is late {what}"));
        }
    }

    fn close(&mut self, token: usize, why: &str) {
        if let Some(mut client) = self.clients.remove(&token) {
            tracing::debug!("control client {token} {why}");
            let _ = self.poll.registry().deregister(&mut client.stream);
            if client.busy {
                self.control.gone(ClientId(token));
            }
        }
    }

    /// The end: replies that are ready go out, for a moment.
    fn part(&mut self, events: &mut Events) {
        let until = Instant::now() + PARTING_TIME;
        loop {
            let now = Instant::now();
            self.take_outgoing(now);
            self.clients.retain(|_, c| c.flush(now).is_ok() && c.outbound_bytes() > 0);
            if self.clients.is_empty() || now >= until {
                return;
            }
            if !self.wait(events, Some(until - now)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        let text = "root:x:0:\nvswitch:x:998:neutron\nbad\nvswitch2:x:5:\n";
        assert_eq!(group_id(text, "vswitch"), Some(998));
        assert_eq!(group_id(text, "bad"), None);
        assert_eq!(group_id(text, "none"), None);
    }

    #[test]
    fn a_path_that_is_too_long_is_said() {
        let path = PathBuf::from(format!("/{}/vswitchd.sock", "x".repeat(120)));
        let error = listen(&path).map(drop).expect_err("too long");
        assert!(error.message.contains("shorter --run-dir"), "{error}");
    }
}
