//! May this process do what a switch needs, on this kernel? Asked once, before anything is touched, so
//! that what is missing is said in one line instead of by the first system call that fails.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::CtlError;

/// The oldest kernel whose AF_XDP and XDP metadata do what is needed.
const KERNEL: (u32, u32) = (6, 8);

/// Number and name of a capability (`capabilities(7)`), and whether nothing works without it.
const NEEDED: [(u32, &str, bool); 5] = [
    (12, "CAP_NET_ADMIN", true),
    (13, "CAP_NET_RAW", true),
    (39, "CAP_BPF", true),
    (14, "CAP_IPC_LOCK", false),
    (23, "CAP_SYS_NICE", false),
];

/// Checks capabilities and kernel. Gives warnings for what is missing and can be done without.
pub fn check() -> Result<Vec<String>, CtlError> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map_err(|e| CtlError::system(format!("cannot read {path}: {e}")))
    };
    check_kernel(read("/proc/sys/kernel/osrelease")?.trim())?;
    check_capabilities(&read("/proc/self/status")?)
}

/// Takes all the open files and locked memory that the system allows: a thousand ports need more than
/// the usual 1,024 descriptors, and frames are locked memory. What is not allowed stays as it is.
pub fn raise_limits() {
    let unlimited = Rlimit { current: None, maximum: None };
    for resource in [Resource::Nofile, Resource::Memlock] {
        let limit = getrlimit(resource);
        let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let raised = match resource {
            // Without CAP_SYS_RESOURCE only the maximum is to be had.
            Resource::Memlock => {
                setrlimit(resource, unlimited).or_else(|_| setrlimit(resource, most))
            }
            _ => setrlimit(resource, most),
        };
        if let Err(e) = raised {
            tracing::warn!("cannot raise the limit {resource:?} of {:?}: {e}", limit.current);
        }
    }
}

fn check_kernel(release: &str) -> Result<(), CtlError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        // A release that cannot be read is not a reason to refuse.
        _ => return Ok(()),
    };
    if version < KERNEL {
        return Err(CtlError::unsupported(format!(
            "kernel {release} is too old: {}.{} or later is needed",
            KERNEL.0, KERNEL.1
        )));
    }
    Ok(())
}

fn check_capabilities(status: &str) -> Result<Vec<String>, CtlError> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| CtlError::system("/proc/self/status has no CapEff line"))?;
    // CAP_SYS_ADMIN includes what CAP_BPF allows.
    let has = |n: u32| effective >> n & 1 == 1 || (n == 39 && effective >> 21 & 1 == 1);
    let missing = |fatal: bool| -> Vec<&str> {
        NEEDED
            .iter()
            .filter(|(n, _, f)| *f == fatal && !has(*n))
            .map(|(_, name, _)| *name)
            .collect()
    };
    let (fatal, wanted) = (missing(true), missing(false));
    if !fatal.is_empty() {
        let all = [fatal, wanted].concat().join(", ");
        return Err(CtlError::system(format!("missing capabilities: {all}"))
            .with_hint("run as root, or give them to the service (AmbientCapabilities=)"));
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "missing capabilities: {}: memory limits may refuse frames, workers keep ordinary priority",
        wanted.join(", ")
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bits: &[u32]) -> String {
        let mask: u64 = bits.iter().map(|n| 1u64 << n).sum();
        format!("Name:\tx\nCapEff:\t{mask:016x}\nSeccomp:\t0\n")
    }

    #[test]
    fn kernels() {
        assert!(check_kernel("6.18.44-generic").is_ok());
        assert!(check_kernel("6.8").is_ok());
        assert!(check_kernel("7.0-rc1").is_ok());
        let error = check_kernel("6.1.0-18-amd64").expect_err("old");
        assert!(error.message.contains("6.1.0-18-amd64") && error.message.contains("6.8"));
    }

    #[test]
    fn limits_are_raised_to_the_maximum() {
        raise_limits();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn capabilities() {
        assert_eq!(check_capabilities(&status(&[12, 13, 39, 14, 23])), Ok(Vec::new()));
        assert_eq!(check_capabilities(&status(&[12, 13, 21, 14, 23])), Ok(Vec::new()));
        let warnings = check_capabilities(&status(&[12, 13, 39])).expect("not fatal");
        assert!(warnings[0].contains("CAP_IPC_LOCK, CAP_SYS_NICE"), "{warnings:?}");
        let error = check_capabilities(&status(&[13])).expect_err("fatal");
        assert!(error.message.contains("CAP_NET_ADMIN, CAP_BPF, CAP_IPC_LOCK"), "{error}");
        assert!(check_capabilities("nothing").is_err());
    }
}
