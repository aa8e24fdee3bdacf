//! What a switch begins with: memory for frames, and cores for its workers.

use std::sync::Arc;

use afxdp::Region;

use crate::error::CtlError;
use crate::options::Workers;

/// The memory for frames. More than there is would be refused only when it is touched, by a signal.
pub(super) fn region(bytes: usize) -> Result<Arc<Region>, CtlError> {
    let refused = |why: String| {
        CtlError::system(format!(
            "--umem: the kernel refused {} MiB for frames: {why}",
            bytes >> 20
        ))
        .with_hint("give less with --umem, or more memory to the daemon")
    };
    if let Some(available) = available_memory().filter(|a| bytes > *a) {
        return Err(refused(format!("{} MiB are available", available >> 20)));
    }
    Region::new(bytes).map_err(|e| refused(e.to_string()))
}

/// Bytes that the kernel could give now (`MemAvailable` of proc(5)), if it says.
fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

/// The cores to pin workers to: the last ones that the process may use, or those that were named.
pub(super) fn cores(workers: &Workers) -> Result<Vec<Option<usize>>, CtlError> {
    let may: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|c| c.id).collect();
    match workers {
        Workers::Count(n) if *n > may.len().max(1) => Err(CtlError::invalid(format!(
            "--workers {n}: the process may use {} cores only",
            may.len()
        ))),
        Workers::Count(n) => {
            let first = may.len().saturating_sub(*n);
            Ok(if may.is_empty() {
                vec![None; *n]
            } else {
                may[first..].iter().map(|c| Some(*c)).collect()
            })
        }
        Workers::Cores(cores) => match cores.iter().find(|c| !may.contains(c)) {
            Some(c) => Err(CtlError::invalid(format!(
                "--workers cores: the process may not use core {c}; it may use {may:?}"
            ))),
            None => Ok(cores.iter().map(|c| Some(*c)).collect()),
        },
    }
}
