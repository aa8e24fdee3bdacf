//! One daemon per directory: an flock on a file that holds the owner's pid. The kernel drops the lock
//! with the process, so that a dead daemon never keeps anyone out; the file itself stays.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::CtlError;

/// A held lock; dropped, it is free.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, or says who has it. `what` names the directory in messages, such as
    /// `run directory /run/vswitch`.
    pub fn acquire(path: &Path, what: &str) -> Result<Self, CtlError> {
        let failed = |e: &dyn std::fmt::Display| {
            CtlError::system(format!("cannot lock {}: {e}", path.display()))
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut file = options.open(path).map_err(|e| failed(&e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.take(32).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(CtlError::exists(format!(
                    "another vswitchd (pid {pid}) is using the {what}"
                ))
                .with_hint("stop it, or give this one its own --run-dir and --state-dir"));
            }
            Err(e) => return Err(failed(&e)),
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(|e| failed(&e))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path, "run directory X").expect("first");
        let error = Lock::acquire(&path, "run directory X").expect_err("second");
        assert!(error.message.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(error.message.contains("run directory X"));
        drop(first);
        Lock::acquire(&path, "run directory X").expect("free again");
    }
}
