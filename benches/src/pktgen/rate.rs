//! How fast are packets to be sent?

use std::str::FromStr;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the sender can.
    Max,
    /// Packets a second.
    Packets(f64),
    /// Bits a second of whole frames with their check sequence; preamble and gap (20 bytes a frame on
    /// Ethernet) are not counted.
    Bits(f64),
}

impl Rate {
    /// Packets a second for frames of so many bytes on average; none for as fast as possible.
    pub fn packets(self, mean_size: f64) -> Option<f64> {
        match self {
            Rate::Max => None,
            Rate::Packets(pps) => Some(pps),
            Rate::Bits(bits) => Some(bits / (mean_size * 8.0)),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::Max => f.write_str("max"),
            Rate::Packets(n) => write!(f, "{}", scaled(*n, "pps")),
            Rate::Bits(n) => write!(f, "{}", scaled(*n, "bit/s")),
        }
    }
}

/// `1.50 Mpps`: a number with a prefix that leaves one to three digits before the point.
pub fn scaled(value: f64, unit: &str) -> String {
    for (factor, prefix) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= factor {
            return format!("{:.2} {prefix}{unit}", value / factor);
        }
    }
    format!("{value:.0} {unit}")
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        let wrong = || {
            format!(
                "`{text}` is no rate: packets a second (250000, 1.5Mpps), bits a second (10Gbit, \
                 500Mbit), or max"
            )
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (factor, unit) = match unit.trim_start().split_at_checked(1) {
            Some(("k" | "K", unit)) => (1e3, unit),
            Some(("M", unit)) => (1e6, unit),
            Some(("G", unit)) => (1e9, unit),
            _ => (1.0, unit.trim_start()),
        };
        let value = number * factor;
        if !(value > 0.0 && value <= 1e12) {
            return Err(format!("`{text}`: more than 0, at most 1000G"));
        }
        match unit {
            "" | "pps" | "p/s" => Ok(Rate::Packets(value)),
            "bit" | "bit/s" | "bps" | "b/s" => Ok(Rate::Bits(value)),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_all_units() {
        let rate = |text: &str| text.parse::<Rate>();
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("1000"), Ok(Rate::Packets(1000.0)));
        assert_eq!(rate("1.5Mpps"), Ok(Rate::Packets(1_500_000.0)));
        assert_eq!(rate("10Gbit/s"), Ok(Rate::Bits(1e10)));
        assert_eq!(rate("500 Mbps"), Ok(Rate::Bits(5e8)));
        for bad in ["", "fast", "0", "-5", "1.2.3", "5Tpps", "1000G1", "5parsec", "99999Gpps"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bits_become_packets_by_the_size() {
        assert_eq!(Rate::Bits(512e6).packets(64.0), Some(1e6));
        assert_eq!(Rate::Max.packets(64.0), None);
        assert_eq!(scaled(1_500_000.0, "pps"), "1.50 Mpps");
        assert_eq!(scaled(999.0, "pps"), "999 pps");
    }
}
