//! Which sizes do frames have?
//!
//! Bytes with the check sequence of four bytes, as RFC 2544 section 9.1 and every data sheet count them:
//! the smallest Ethernet frame has 64, of which 60 are seen by programs.

use std::str::FromStr;

/// Bytes of the check sequence, which hardware adds and takes away.
pub const FCS: usize = 4;
/// Smallest and largest frame.
pub const LIMITS: std::ops::RangeInclusive<usize> = 64..=9216;
/// The frames of the simple mix of the internet: seven small, four middle, one large.
const IMIX: [(usize, usize); 3] = [(7, 64), (4, 594), (1, 1518)];
/// What RFC 2544 wants tested on Ethernet.
pub const RFC2544: [usize; 7] = [64, 128, 256, 512, 1024, 1280, 1518];

/// The sizes of successive frames, again and again. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    text: String,
    cycle: Vec<usize>,
}

impl Sizes {
    /// One cycle, in the order given.
    pub fn cycle(&self) -> &[usize] {
        &self.cycle
    }

    /// Bytes of a frame on average.
    pub fn mean(&self) -> f64 {
        self.cycle.iter().sum::<usize>() as f64 / self.cycle.len() as f64
    }

    /// In words: `64 bytes`, `64, 1518 bytes in turn`.
    pub fn describe(&self) -> String {
        match self.cycle.as_slice() {
            _ if self.text == "imix" => format!("imix ({:.0} bytes on average)", self.mean()),
            [size] => format!("{size} bytes"),
            _ => format!("{} bytes in turn", self.text.replace(',', ", ")),
        }
    }

    /// The largest of them.
    pub fn largest(&self) -> usize {
        self.cycle.iter().copied().max().unwrap_or(0)
    }

    /// The smallest of them.
    pub fn smallest(&self) -> usize {
        self.cycle.iter().copied().min().unwrap_or(0)
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cycle = match text {
            "imix" => IMIX.iter().flat_map(|(n, size)| vec![*size; *n]).collect(),
            _ => text.split(',').map(one).collect::<Result<Vec<_>, _>>()?,
        };
        Ok(Self { text: text.to_owned(), cycle })
    }
}

fn one(text: &str) -> Result<usize, String> {
    let (low, high) = (LIMITS.start(), LIMITS.end());
    let size: usize = text.parse().map_err(|_| {
        format!("`{text}` is no frame size: bytes such as 64 or 1518, several as 64,512, or imix")
    })?;
    if !LIMITS.contains(&size) {
        return Err(format!("{size} bytes: from {low} to {high}, check sequence included"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_bad_ones_refused() {
        let sizes = |text: &str| text.parse::<Sizes>();
        assert_eq!(sizes("64,1518").expect("sizes").cycle(), [64, 1518]);
        let imix = sizes("imix").expect("imix");
        assert_eq!((imix.cycle().len(), imix.largest(), imix.smallest()), (12, 1518, 64));
        assert!((imix.mean() - (7.0 * 64.0 + 4.0 * 594.0 + 1518.0) / 12.0).abs() < 1e-9);
        assert_eq!(imix.describe(), "imix (362 bytes on average)");
        assert_eq!(sizes("64,1518").expect("sizes").describe(), "64, 1518 bytes in turn");
        assert_eq!(sizes("64").expect("a size").describe(), "64 bytes");
        for bad in ["", "63", "9217", "64,", "small", "-1", "64-128"] {
            assert!(sizes(bad).is_err(), "{bad}");
        }
    }
}
