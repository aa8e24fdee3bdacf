//! The daemon from start to end: locks, the stored configuration, the running switch, the socket, the
//! control thread's loop, and the way out.
//!
//! The control thread is the one that calls [`run`]. It alone touches [`Control`]. It waits for
//! requests of the socket's thread, for the backend's descriptors, for the backend's next tick, and for
//! the signal that ends it. The socket appears when everything before is done: who gets an answer gets
//! one from a switch that runs as configured.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::backend::Backend;
use crate::error::CtlError;
use crate::lock::Lock;
use crate::logging::LogLevel;
use crate::notify::notify;
use crate::options::{DaemonOptions, SOCKET};
use crate::rpc::{Incoming, Limits, Server};
use crate::store::Store;
use crate::streams::{MONITOR, Streams};
use crate::sys::EndSignals;
use crate::transact::Control;

/// After a signal to end, the process is gone at the latest after this, clean or not.
const END_LIMIT: Duration = Duration::from_secs(4);
/// Longest wait, whatever the backend says.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// Requests that are answered before the backend is asked again.
const REQUESTS_IN_TURN: usize = 64;

/// Runs the daemon until a signal ends it. `make_backend` is called when the locks are held and before
/// anything else is made. Call before any thread is made: signals are blocked for all of them.
pub fn run(
    options: &DaemonOptions,
    log_level: LogLevel,
    make_backend: impl FnOnce(&DaemonOptions) -> Result<Box<dyn Backend>, CtlError>,
) -> Result<(), CtlError> {
    let bell = Bell::new()?;
    let ending = Ending::start(bell.clone())?;
    let run_dir = directory(&options.run_dir, "run")?;
    let state_dir = directory(&options.state_dir, "state")?;
    // Dropped last, in the order opposite to this: nobody else may come in before all is cleaned up.
    let _run_lock = Lock::acquire(
        &run_dir.join("vswitchd.lock"),
        &format!("run directory {}", run_dir.display()),
    )?;
    let _state_lock = Lock::acquire(
        &state_dir.join("state.lock"),
        &format!("state directory {}", state_dir.display()),
    )?;
    let socket = run_dir.join(SOCKET);
    remove_stale(&socket)?;

    let store = Store::new(&state_dir);
    let loaded = store.load()?;
    if let Some(damage) = &loaded.damaged {
        tracing::error!(
            "the stored configuration {} is damaged: {}; it is kept as {}, starting empty",
            store.path().display(),
            damage.reason,
            damage.aside.display()
        );
    }
    let backend = make_backend(options)?;
    let mut control = Control::restore(loaded.config, store, backend, log_level)?;
    let result = serve(&mut control, &socket, &bell, &ending);
    notify("STOPPING=1");
    control.backend().0.shutdown();
    tracing::info!("stopped");
    result
}

/// Opens the socket and works until the end.
fn serve(
    control: &mut Control,
    socket: &Path,
    bell: &Bell,
    ending: &Ending,
) -> Result<(), CtlError> {
    if ending.asked() {
        return Ok(());
    }
    let ring = bell.clone();
    let server = Server::start(socket, Limits::default(), move || ring.ring())?;
    let config = control.config();
    let (bridges, ports) = (config.bridges.len(), config.port_count());
    tracing::info!("ready: {bridges} bridges, {ports} ports, control socket {}", socket.display());
    notify("READY=1");

    let mut next_tick = Instant::now();
    let mut streams = Streams::default();
    while !ending.asked() {
        if !server.is_alive() {
            return Err(CtlError::internal("the control socket's thread ended by itself"));
        }
        let more = take_requests(control, &server, &mut streams, &mut next_tick);
        let now = Instant::now();
        if next_tick <= now {
            let (backend, config) = control.backend();
            next_tick = now + backend.tick(config, now).min(WAIT_LIMIT);
        }
        streams.deliver(control.backend(), server.outbox());
        let wait = if more { Duration::ZERO } else { next_tick.saturating_duration_since(now) };
        if bell.wait(&control.backend().0.wake_fds(), wait)? {
            next_tick = Instant::now();
        }
    }
    Ok(())
}

/// Answers what has come in, a bounded number of requests. True when there may be more.
fn take_requests(
    control: &mut Control,
    server: &Server,
    streams: &mut Streams,
    next_tick: &mut Instant,
) -> bool {
    for _ in 0..REQUESTS_IN_TURN {
        match server.try_recv() {
            Some(Incoming::Request(request)) => {
                *next_tick = Instant::now();
                if request.method == MONITOR {
                    streams.open(control.backend(), request, server.outbox());
                    continue;
                }
                let result = control.handle(&request.method, request.params);
                server.outbox().reply(request.client, request.id, result);
            }
            Some(Incoming::Gone(client)) => streams.gone(client, control.backend().0),
            None => return false,
        }
    }
    true
}

/// The directory, made if it is missing, as an absolute path.
fn directory(path: &Path, what: &str) -> Result<PathBuf, CtlError> {
    let failed = |e: std::io::Error| {
        let error =
            CtlError::system(format!("cannot use the {what} directory {}: {e}", path.display()));
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                error.with_hint(format!("run as root, or give --{what}-dir"))
            }
            _ => error,
        }
    };
    fs::create_dir_all(path).map_err(failed)?;
    path.canonicalize().map_err(failed)
}

/// Takes away what a dead daemon left under the socket's name. The lock is held: it belongs to no one.
fn remove_stale(socket: &Path) -> Result<(), CtlError> {
    match fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CtlError::system(format!("cannot remove the old socket {}: {e}", socket.display())))
        }
        _ => Ok(()),
    }
}

/// Wakes the control thread, from any thread.
#[derive(Clone, Debug)]
struct Bell(Arc<OwnedFd>);

impl Bell {
    fn new() -> Result<Self, CtlError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| CtlError::system(format!("eventfd: {e}")))?;
        Ok(Self(Arc::new(fd)))
    }

    fn ring(&self) {
        // A full counter is a bell that rings already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Waits for the bell, for one of `others`, or for `at_most`. True when one of `others` is readable.
    fn wait(&self, others: &[BorrowedFd<'_>], at_most: Duration) -> Result<bool, CtlError> {
        let mut fds = vec![PollFd::new(&*self.0, PollFlags::IN)];
        fds.extend(others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let timeout = Timespec::try_from(at_most)
            .map_err(|e| CtlError::internal(format!("a wait of {at_most:?}: {e}")))?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(CtlError::system(format!("poll: {e}"))),
        }
        let readable = fds.iter().skip(1).any(|fd| !fd.revents().is_empty());
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&*self.0, &mut counter);
        Ok(readable)
    }
}

/// The thread that waits for a signal to end, and sees to it that the end comes.
struct Ending(Arc<AtomicBool>);

impl Ending {
    fn start(bell: Bell) -> Result<Self, CtlError> {
        let failed = |e: std::io::Error| CtlError::system(format!("signals: {e}"));
        let signals = EndSignals::block().map_err(failed)?;
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        let wait = move || {
            let name = signals.wait();
            tracing::info!("{name}: stopping");
            flag.store(true, Ordering::Release);
            bell.ring();
            std::thread::sleep(END_LIMIT);
            tracing::error!("still not stopped after {} s: leaving as it is", END_LIMIT.as_secs());
            std::process::exit(1);
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(failed)?;
        Ok(Self(asked))
    }

    fn asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
