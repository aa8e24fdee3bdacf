//! What went wrong with a port: which interface, which operation, what the kernel said, and what
//! a user can do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// An error of opening, changing or closing a port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The kernel refused an operation on an interface.
    #[error("{interface}: {operation}: {source}{hint}", hint = Hint(hint))]
    System {
        /// The interface's name.
        interface: String,
        /// What was tried, in words.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What a user can do, or what it usually means; may be empty.
        hint: &'static str,
    },
    /// There is no interface of that name in the daemon's network namespace.
    #[error("{interface}: no such interface in this network namespace")]
    NoSuchInterface {
        /// The name asked for.
        interface: String,
    },
    /// The name is no legal interface name.
    #[error("{interface:?}: not an interface name: {why}")]
    BadName {
        /// The name asked for.
        interface: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An interface that the switch should create exists and is not its own.
    #[error(
        "{interface}: cannot create an internal interface: an interface of that name exists \
         already (delete it, or add it as a port of type afxdp)"
    )]
    Exists {
        /// The name asked for.
        interface: String,
    },
    /// A value of the port's settings is out of range.
    #[error("{interface}: {key}={value}: {expected}")]
    BadValue {
        /// The interface's name.
        interface: String,
        /// The setting.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// An AF_XDP socket or program could not be made.
    #[error(transparent)]
    Afxdp(#[from] afxdp::Error),
    /// The interface cannot be used safely.
    #[error("{interface}: {why}")]
    Refused {
        /// The interface's name.
        interface: String,
        /// Why, in words.
        why: String,
    },
    /// A capture file cannot be opened, read or written.
    #[error("{path}: {operation}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A capture file is not what it should be.
    #[error("{path}: at byte {offset}: {what}", path = path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// Where the fault begins.
        offset: u64,
        /// What is wrong.
        what: String,
    },
}

/// Shows a hint behind the error, if there is one.
struct Hint(&'static str);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

impl PortError {
    /// The kernel refused `operation` on `interface`. The hint is chosen by the errno.
    pub(crate) fn system(
        interface: &str,
        operation: &'static str,
        source: impl Into<io::Error>,
    ) -> PortError {
        let source = source.into();
        let hint = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "the daemon needs CAP_NET_ADMIN in this network namespace"
            }
            Some(libc::ENOENT) => "is the tun driver there? try: modprobe tun",
            Some(libc::ENODEV | libc::ENXIO) => "the interface is gone",
            Some(libc::EMFILE | libc::ENFILE) => {
                "too many open files: raise LimitNOFILE of the daemon"
            }
            _ => "",
        };
        PortError::System { interface: interface.to_owned(), operation, source, hint }
    }
}
