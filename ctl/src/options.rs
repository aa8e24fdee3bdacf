//! The daemon's command line, parsed into values that cannot be wrong.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};

/// The default of `--run-dir`.
pub const RUN_DIR: &str = "/run/vswitch";
/// The default of `--state-dir`.
pub const STATE_DIR: &str = "/var/lib/vswitch";
/// The control socket's name in the run directory.
pub const SOCKET: &str = "vswitchd.sock";
/// Most workers.
pub const WORKERS_LIMIT: usize = 256;
/// Smallest region of frames, bytes.
pub const UMEM_MIN: u64 = 1 << 20;
/// Largest region of frames, bytes.
pub const UMEM_MAX: u64 = 1 << 40;

/// Userspace virtual switch: forwards frames between network interfaces by flow tables.
///
/// Runs in the foreground and logs to standard error. Configure it with vswitchctl.
#[derive(Clone, Debug, Parser)]
#[command(name = "vswitchd", version, after_help = EXAMPLES)]
pub struct DaemonOptions {
    /// Directory of the control socket (vswitchd.sock)
    #[arg(long, value_name = "DIR", env = "VSWITCH_RUN_DIR", default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// Directory where the configuration is kept
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Forwarding threads: a count (the last N cores are used) or cores:0,1
    #[arg(long, value_name = "W", default_value = "1")]
    pub workers: Workers,
    /// What an idle worker does
    #[arg(long, value_name = "MODE", default_value = "adaptive")]
    pub poll: Poll,
    /// Memory for frames, such as 64M or 1G
    #[arg(long, value_name = "SIZE", default_value = "128M")]
    pub umem: Size,
    /// How much to log: off, error, warn, info, debug, trace, and MODULE=LEVEL after commas
    #[arg(long, value_name = "L", default_value = "info", value_parser = log_level)]
    pub log_level: String,
}

const EXAMPLES: &str = "Examples:
  vswitchd
  vswitchd --workers cores:2,3 --umem 256M
  vswitchd --run-dir /tmp/sw --state-dir /tmp/sw --log-level debug

Then: vswitchctl add-br br0";

fn log_level(text: &str) -> Result<String, String> {
    crate::logging::parse(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Which cores forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// So many, on the last cores that the process may use.
    Count(usize),
    /// On exactly these cores.
    Cores(Vec<usize>),
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected a count from 1 to {WORKERS_LIMIT}, or cores: and core numbers, such as \
                 cores:0,1 or cores:2-5"
            )
        };
        let number = |t: &str| crate::schema::value::parse_int(t, 0usize, 65535);
        let Some(list) = text.strip_prefix("cores:") else {
            let count = number(text).filter(|n| (1..=WORKERS_LIMIT).contains(n));
            return count.map(Self::Count).ok_or_else(expected);
        };
        let mut cores = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => cores.extend(first..=last),
                _ => return Err(expected()),
            }
        }
        let unique: BTreeSet<_> = cores.iter().collect();
        if unique.len() != cores.len() {
            return Err("a core is named twice".to_owned());
        }
        if cores.len() > WORKERS_LIMIT { Err(expected()) } else { Ok(Self::Cores(cores)) }
    }
}

/// What an idle worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Poll {
    /// Sleeps when nothing came for 50 to 150 us; wakes when frames arrive
    Adaptive,
    /// Never sleeps
    Busy,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    /// `65536K`, `64M`, `1G`, or bytes without a letter.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a size from 1M to 1T, such as 64M or 1G".to_owned();
        let upper = text.to_ascii_uppercase();
        let upper = upper.strip_suffix("IB").unwrap_or(&upper);
        let (digits, shift) = match upper.as_bytes().last() {
            Some(b'K') => (&upper[..upper.len() - 1], 10),
            Some(b'M') => (&upper[..upper.len() - 1], 20),
            Some(b'G') => (&upper[..upper.len() - 1], 30),
            Some(b'T') => (&upper[..upper.len() - 1], 40),
            _ => (upper, 0),
        };
        let number = crate::schema::value::parse_int(digits, 0, UMEM_MAX).ok_or_else(expected)?;
        let bytes = number.checked_mul(1u64 << shift).ok_or_else(expected)?;
        if (UMEM_MIN..=UMEM_MAX).contains(&bytes) { Ok(Self(bytes)) } else { Err(expected()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let options =
            DaemonOptions::try_parse_from(["vswitchd", "--run-dir", "/r"]).expect("parse");
        assert_eq!(options.workers, Workers::Count(1));
        assert_eq!(options.poll, Poll::Adaptive);
        assert_eq!(options.umem, Size(128 << 20));
        assert_eq!(options.state_dir, PathBuf::from(STATE_DIR));
    }

    #[test]
    fn workers() {
        assert_eq!("4".parse(), Ok(Workers::Count(4)));
        assert_eq!("cores:0,1".parse(), Ok(Workers::Cores(vec![0, 1])));
        assert_eq!("cores:5,2-3".parse(), Ok(Workers::Cores(vec![5, 2, 3])));
        for bad in ["0", "-1", "x", "cores:", "cores:1,1", "cores:3-2", "cores:1,,2", "9999"] {
            assert!(bad.parse::<Workers>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!("64M".parse(), Ok(Size(64 << 20)));
        assert_eq!("1g".parse(), Ok(Size(1 << 30)));
        assert_eq!("2GiB".parse(), Ok(Size(2 << 30)));
        assert_eq!("2097152".parse(), Ok(Size(2 << 20)));
        for bad in ["", "M", "1", "64X", "-1M", "99999999999T", "1.5G"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for bad in [["--workers", "0"], ["--poll", "never"], ["--umem", "1"], ["--log-level", "x"]]
        {
            let parsed = DaemonOptions::try_parse_from(["vswitchd", bad[0], bad[1]]);
            assert_eq!(parsed.expect_err("usage").exit_code(), 2, "{bad:?}");
        }
    }
}
