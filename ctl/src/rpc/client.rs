//! One connected client: bytes in, whole lines out; replies in, bytes out. Never blocks, holds at most
//! what [`Limits`] say, and takes one request at a time: the next is not read before the reply to the
//! last one has left. Knows nothing of JSON beyond the line.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::Limits;

/// Bytes read from one client before others have their turn.
const READ_TURN: usize = 256 << 10;

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// A line without its newline, not empty.
    Line(Vec<u8>),
    /// The line is longer than allowed.
    TooLong,
    /// Nothing whole yet, and nothing more to read for now.
    Waiting,
    /// There may be more at once: others first.
    Again,
    /// The peer will send nothing more.
    Closed,
}

/// A client's state, over any stream that does not block.
#[derive(Debug)]
pub(super) struct Client<S> {
    pub(super) stream: S,
    inbound: Vec<u8>,
    /// How much of `inbound` is known to have no newline.
    scanned: usize,
    outbound: VecDeque<Vec<u8>>,
    /// How much of the first of `outbound` is written.
    written: usize,
    queued: usize,
    /// The socket may have bytes; cleared when it had none.
    pub(super) readable: bool,
    /// A request is with the control thread.
    pub(super) busy: bool,
    /// The peer sends nothing more.
    pub(super) read_closed: bool,
    /// The peer neither sends nor reads any more.
    pub(super) hung_up: bool,
    /// To be closed when everything is written.
    pub(super) closing: bool,
    /// Events that did not fit since the last one that did.
    pub(super) lost: u64,
    /// When the first byte of an unfinished request came.
    partial_since: Option<Instant>,
    /// When writing last moved, while there is something to write.
    stalled_since: Option<Instant>,
    last_active: Instant,
}

impl<S: Read + Write> Client<S> {
    pub(super) fn new(stream: S, now: Instant) -> Self {
        Self {
            stream,
            inbound: Vec::new(),
            scanned: 0,
            outbound: VecDeque::new(),
            written: 0,
            queued: 0,
            readable: true,
            busy: false,
            read_closed: false,
            hung_up: false,
            closing: false,
            lost: 0,
            partial_since: None,
            stalled_since: None,
            last_active: now,
        }
    }

    /// May the next request be read?
    pub(super) fn wants_input(&self) -> bool {
        !self.busy && !self.closing && self.outbound.is_empty()
    }

    /// Work can be done without waiting for the socket.
    pub(super) fn has_input(&self) -> bool {
        self.wants_input() && ((self.readable && !self.read_closed) || self.newline().is_some())
    }

    /// Nothing more will come of this client.
    pub(super) fn is_done(&self) -> bool {
        let flushed = self.outbound.is_empty();
        flushed && !self.busy && (self.closing || (self.read_closed && self.newline().is_none()))
    }

    /// The next line, read in bounded turns.
    pub(super) fn read(&mut self, limits: &Limits, now: Instant) -> io::Result<Input> {
        let mut turn = READ_TURN;
        loop {
            if let Some(line) = self.take_line(now) {
                match line.len() {
                    0 => continue,
                    n if n > limits.request_bytes => return Ok(Input::TooLong),
                    _ => return Ok(Input::Line(line)),
                }
            }
            if self.inbound.len() > limits.request_bytes {
                self.inbound = Vec::new();
                self.scanned = 0;
                return Ok(Input::TooLong);
            }
            if self.read_closed {
                return Ok(Input::Closed);
            }
            if !self.readable {
                return Ok(Input::Waiting);
            }
            if turn == 0 {
                return Ok(Input::Again);
            }
            turn -= self.fill(turn, now)?;
        }
    }

    /// Reads once; gives how much.
    fn fill(&mut self, at_most: usize, now: Instant) -> io::Result<usize> {
        let mut buffer = [0u8; 16 << 10];
        let end = buffer.len().min(at_most);
        match self.stream.read(&mut buffer[..end]) {
            Ok(0) => {
                self.read_closed = true;
                Ok(0)
            }
            Ok(n) => {
                self.inbound.extend_from_slice(&buffer[..n]);
                self.last_active = now;
                self.partial_since.get_or_insert(now);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(e),
        }
    }

    fn newline(&self) -> Option<usize> {
        let unseen = self.inbound.get(self.scanned..)?;
        unseen.iter().position(|b| *b == b'\n').map(|at| self.scanned + at)
    }

    fn take_line(&mut self, now: Instant) -> Option<Vec<u8>> {
        let Some(at) = self.newline() else {
            self.scanned = self.inbound.len();
            return None;
        };
        let rest = self.inbound.split_off(at + 1);
        let mut line = std::mem::replace(&mut self.inbound, rest);
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        self.scanned = 0;
        self.partial_since = if self.inbound.is_empty() { None } else { Some(now) };
        Some(line)
    }

    /// Takes a document to write.
    pub(super) fn queue(&mut self, document: Vec<u8>, now: Instant) {
        self.queued += document.len();
        self.outbound.push_back(document);
        self.stalled_since.get_or_insert(now);
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self, now: Instant) -> io::Result<()> {
        while let Some(first) = self.outbound.front() {
            match self.stream.write(&first[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.written += n;
                    self.last_active = now;
                    self.stalled_since = Some(now);
                    if self.written == first.len() {
                        self.queued -= self.written;
                        self.written = 0;
                        self.outbound.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.stalled_since = None;
        // The time that the reply took is not the client's.
        self.partial_since = self.partial_since.map(|since| since.max(self.last_active));
        Ok(())
    }

    /// Bytes held of a request that is not whole.
    pub(super) fn inbound_bytes(&self) -> usize {
        self.inbound.capacity()
    }

    /// Bytes held of replies that have not left.
    pub(super) fn outbound_bytes(&self) -> usize {
        self.queued
    }

    /// Since when this client may be let go to make room: None while it waits for a reply.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (!self.busy).then_some(self.last_active)
    }

    /// When writing last moved; None without anything to write.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled_since
    }

    /// When this client must have moved on, and what it is late with.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<(Instant, &'static str)> {
        let after = |since: Option<Instant>, limit: Duration, what: &'static str| {
            since.map(|s| (s + limit, what))
        };
        // A request that waits behind another one's reply is not the client's delay.
        let partial = if self.wants_input() { self.partial_since } else { None };
        let partial = after(partial, limits.request_time, "finishing its request");
        let stalled = after(self.stalled_since, limits.stall_time, "reading its reply");
        [partial, stalled].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}
