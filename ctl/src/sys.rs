//! The signals that end the daemon, taken by a thread that waits for them. The only module of this
//! crate with `unsafe`: libc's signal sets have no safe wrapper among this project's crates.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// The signals that end the daemon cleanly.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// A set of signals that every thread made from here on leaves to [`EndSignals::wait`].
pub(crate) struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Blocks the ending signals in this thread and those it makes. Call before any thread is made.
    pub(crate) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given, which is valid for writes; sigaddset
        // gets that initialised set and valid signal numbers.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ENDING {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            set.assume_init()
        };
        // SAFETY: `set` is initialised; the old mask is not asked for.
        match unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        } {
            0 => Ok(Self(set)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Waits for one of the signals and gives its name.
    pub(crate) fn wait(&self) -> &'static str {
        loop {
            let mut signal: libc::c_int = 0;
            // SAFETY: the set is initialised and `signal` is valid for writes.
            let result = unsafe { libc::sigwait(&raw const self.0, &raw mut signal) };
            match (result, signal) {
                (0, libc::SIGTERM) => return "SIGTERM",
                (0, libc::SIGINT) => return "SIGINT",
                (0, libc::SIGHUP) => return "SIGHUP",
                _ => {}
            }
        }
    }
}
