//! The other end of the control socket, for `vswitchctl` and tests: connects, sends a request, waits for
//! its reply, with one time limit for all of it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::command::Command;
use crate::error::{CtlError, ErrorKind};
use crate::rpc::{ErrorBody, ErrorData};
use crate::transact::{Outcome, TRANSACT};

/// Longest line that is taken from the daemon, bytes.
const LINE_LIMIT: usize = 1 << 30;

/// What came back instead of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub error: CtlError,
    /// Which command of the transaction, from 0, and its text.
    pub index: Option<usize>,
    pub command: Option<String>,
}

impl From<CtlError> for Failure {
    fn from(error: CtlError) -> Self {
        Self { error, index: None, command: None }
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        let ErrorData { kind, hint, index, command } = body.data;
        let error =
            CtlError { kind: kind.unwrap_or(ErrorKind::Protocol), message: body.message, hint };
        Self { error, index, command }
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    id: Option<Json>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<ErrorBody>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Option<EventParams>,
}

#[derive(Deserialize)]
struct EventParams {
    #[serde(default)]
    lost: u64,
    event: Box<RawValue>,
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    socket: String,
    deadline: Option<Instant>,
    timeout: Duration,
    inbound: Vec<u8>,
    last_id: u64,
}

impl Connection {
    /// Connects to the socket at `path`. `timeout` is for everything until the last reply; zero means
    /// no limit.
    pub fn open(path: &Path, timeout: Duration) -> Result<Self, CtlError> {
        let socket = path.display().to_string();
        let stream = UnixStream::connect(path).map_err(|e| unreachable(&socket, &e))?;
        let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
        Ok(Self { stream, socket, deadline, timeout, inbound: Vec::new(), last_id: 0 })
    }

    /// Carries out a transaction.
    pub fn transact(&mut self, commands: &[Command]) -> Result<Outcome, Failure> {
        let raw = self.call(TRANSACT, &json!({"commands": commands}), |_, _| {})?;
        let outcome: Outcome = serde_json::from_str(raw.get())
            .map_err(|e| CtlError::protocol(format!("the daemon's answer cannot be read: {e}")))?;
        if outcome.results.len() != commands.len() {
            let (got, wanted) = (outcome.results.len(), commands.len());
            let message = format!("the daemon gave {got} answers to {wanted} commands");
            return Err(CtlError::protocol(message).into());
        }
        Ok(outcome)
    }

    /// Sends one request and waits for its reply; events before it go to `on_event`,
    /// with how many were lost before each.
    pub fn call(
        &mut self,
        method: &str,
        params: &Json,
        mut on_event: impl FnMut(u64, &RawValue),
    ) -> Result<Box<RawValue>, Failure> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let sent = self.write(format!("{request}\n").as_bytes());
        if let Err(e) = sent {
            // The daemon may have said why before it closed.
            if e.kind() != io::ErrorKind::BrokenPipe && e.kind() != io::ErrorKind::ConnectionReset {
                return Err(self.failed(&e).into());
            }
        }
        loop {
            let line = self.read_line().map_err(|e| self.failed(&e))?;
            let reply: Reply = serde_json::from_slice(&line).map_err(|e| {
                CtlError::protocol(format!("the daemon's answer cannot be read: {e}"))
            })?;
            if reply.method.is_some() {
                if let Some(params) = reply.params {
                    on_event(params.lost, &params.event);
                }
                continue;
            }
            // Id null: the daemon could not read the request or has no place for the client.
            let about_this = reply.id.as_ref().is_none_or(|i| i.is_null() || *i == json!(id));
            match (reply.error, reply.result) {
                (Some(error), _) if about_this => return Err(error.into()),
                (None, Some(result)) if about_this => return Ok(result),
                _ => {
                    let message = "the daemon answered something that was not asked";
                    return Err(CtlError::protocol(message).into());
                }
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(self.left()?)?;
            match self.stream.write(bytes) {
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut scanned = 0;
        loop {
            let unseen = self.inbound.get(scanned..).unwrap_or_default();
            if let Some(at) = unseen.iter().position(|b| *b == b'\n') {
                let rest = self.inbound.split_off(scanned + at + 1);
                return Ok(std::mem::replace(&mut self.inbound, rest));
            }
            scanned = self.inbound.len();
            if scanned > LINE_LIMIT {
                return Err(io::Error::other(format!("an answer of more than {LINE_LIMIT} bytes")));
            }
            self.stream.set_read_timeout(self.left()?)?;
            let mut buffer = [0u8; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.inbound.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        match deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn failed(&self, error: &io::Error) -> CtlError {
        let socket = &self.socket;
        let kind = ErrorKind::Unreachable;
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => CtlError::new(
                kind,
                format!("no answer from {socket} within {} s", self.timeout.as_secs_f64()),
            )
            .with_hint("what was asked may still be carried out; see --timeout"),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => {
                CtlError::new(kind, format!("the daemon at {socket} closed the connection"))
            }
            _ => CtlError::new(kind, format!("talking to {socket}: {error}")),
        }
    }
}

fn unreachable(socket: &str, error: &io::Error) -> CtlError {
    let new = |message: String| CtlError::new(ErrorKind::Unreachable, message);
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => new(format!(
            "no vswitchd answers at {socket}"
        ))
        .with_hint("start one (vswitchd, or systemctl start vswitchd), or name its --run-dir"),
        io::ErrorKind::PermissionDenied => new(format!("no permission for {socket}"))
            .with_hint("be root or a member of the group vswitch"),
        _ => new(format!("cannot connect to {socket}: {error}")),
    }
}
