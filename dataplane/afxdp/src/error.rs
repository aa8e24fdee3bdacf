//! What went wrong, on which interface, and what can be done about it?
//!
//! Invariants: every failed system call becomes an [`Error`] that keeps the kernel's errno; the
//! text names the interface and the operation first, and ends with a hint where one is known.

use std::fmt;
use std::io;

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `socket(AF_XDP)`.
    CreateSocket,
    /// Registering the region as the socket's memory (`XDP_UMEM_REG`).
    RegisterMemory,
    /// Making or mapping one of the four rings.
    CreateRing,
    /// Binding to the interface's queue.
    Bind,
    /// Reading the socket's statistics.
    Statistics,
    /// Creating a BPF map.
    CreateMap,
    /// Entering a socket into the map.
    UpdateMap,
    /// Loading the XDP program.
    LoadProgram,
    /// Attaching the XDP program.
    Attach,
    /// Asking the kernel about the interface.
    Query,
    /// Running a program on test input.
    TestRun,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::CreateSocket => "creating an AF_XDP socket",
            Operation::RegisterMemory => "registering the frame memory",
            Operation::CreateRing => "making a ring",
            Operation::Bind => "binding the AF_XDP socket",
            Operation::Statistics => "reading statistics",
            Operation::CreateMap => "creating the socket map",
            Operation::UpdateMap => "entering the socket into the map",
            Operation::LoadProgram => "loading the XDP program",
            Operation::Attach => "attaching the XDP program",
            Operation::Query => "asking the kernel about the interface",
            Operation::TestRun => "running a program on test input",
        })
    }
}

/// Why an operation of this crate failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The interface already has an XDP program, which was left in place.
    Busy {
        /// The interface.
        interface: String,
        /// The id of its program (as in `ip link`), if the kernel tells.
        program: Option<u32>,
    },
    /// A setting that cannot work.
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A system call failed.
    System {
        /// The step.
        operation: Operation,
        /// The interface (and queue), empty where there is none.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
        /// What the kernel said beside it: the end of the verifier's log.
        log: String,
    },
}

impl Error {
    pub(crate) fn system(operation: Operation, interface: &str, source: io::Error) -> Error {
        Error::System { operation, interface: interface.to_owned(), source, log: String::new() }
    }

    /// The kernel's errno, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Busy { .. } => Some(libc::EBUSY),
            Error::Invalid { .. } => None,
            Error::System { source, .. } => source.raw_os_error(),
        }
    }

    /// What can be done about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        let Error::System { operation, source, .. } = self else { return None };
        use Operation as Op;
        Some(match (operation, source.raw_os_error()?) {
            (_, libc::EPERM | libc::EACCES) => "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF are needed",
            (Op::CreateSocket, libc::EAFNOSUPPORT) => {
                "this kernel is built without CONFIG_XDP_SOCKETS"
            }
            (Op::RegisterMemory, libc::ENOBUFS | libc::ENOMEM) => {
                "the limit on locked memory is too low: raise RLIMIT_MEMLOCK or give CAP_IPC_LOCK"
            }
            (Op::Bind, libc::EBUSY) => "another AF_XDP socket has this queue",
            (Op::Bind, libc::ENETDOWN) => "the interface is down: set it up first",
            (Op::Bind, libc::EINVAL) => "the interface has no such queue, or its rings do not fit",
            (Op::Bind | Op::Attach | Op::Query, libc::ENODEV) => "the interface is gone",
            (Op::Bind | Op::Attach, libc::EOPNOTSUPP) => "the driver cannot do this mode",
            (Op::Attach, libc::ERANGE) => {
                "the MTU is too large for this program: lower it or allow multi-buffer frames"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Busy { interface, program } => {
                write!(f, "{interface}: the interface already has an XDP program")?;
                match program {
                    Some(id) => write!(f, " (id {id})"),
                    None => Ok(()),
                }
            }
            Error::Invalid { what } => f.write_str(what),
            Error::System { operation, interface, source, log } => {
                if !interface.is_empty() {
                    write!(f, "{interface}: ")?;
                }
                write!(f, "{operation}: {source}")?;
                if let Some(hint) = self.hint() {
                    write!(f, " ({hint})")?;
                }
                if !log.is_empty() {
                    write!(f, "; the kernel says: {log}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::System { source, .. } => Some(source),
            _ => None,
        }
    }
}
