//! What translation is wanted?

use std::fmt;
use std::net::IpAddr;

/// Which end of the original direction is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The source: `nat(src=...)`.
    Src,
    /// The destination: `nat(dst=...)`.
    Dst,
}

/// How a port is chosen when the packet's own cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Choice {
    /// By a hash of the connection's tuple; the packet's own port is tried first.
    #[default]
    Hash,
    /// At random, the packet's own port like any other.
    Random,
}

/// A range of addresses of one family, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    pub(crate) v6: bool,
    pub(crate) min: u128,
    pub(crate) max: u128,
}

impl AddressRange {
    /// A range.
    ///
    /// # Errors
    /// The ends are of two families, or the last is below the first.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<AddressRange, BadNat> {
        let (v6, min, max) = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (false, u32::from(a).into(), u32::from(b).into()),
            (IpAddr::V6(a), IpAddr::V6(b)) => (true, u128::from(a), u128::from(b)),
            _ => return Err(BadNat::Families(first, last)),
        };
        if max < min {
            return Err(BadNat::Addresses(first, last));
        }
        Ok(AddressRange { v6, min, max })
    }
}

/// A translation for new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatSpec {
    pub(crate) side: Side,
    pub(crate) addresses: Option<AddressRange>,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) choice: Choice,
    pub(crate) persistent: bool,
}

impl NatSpec {
    /// A translation of one side.
    ///
    /// Without addresses, or with the one address 0, the packet's own address is kept: a null
    /// binding, which changes a port only where another connection's tuple is in the way.
    /// Without ports, the packet's own is kept where it is free. `persistent`: the address
    /// depends on the packet's source alone, not on its destination.
    ///
    /// # Errors
    /// The last port is below the first, or ports are from 0 on.
    pub fn new(
        side: Side,
        addresses: Option<AddressRange>,
        ports: Option<(u16, u16)>,
        choice: Choice,
        persistent: bool,
    ) -> Result<NatSpec, BadNat> {
        if let Some((first, last)) = ports
            && (first > last || first == 0)
        {
            return Err(BadNat::Ports(first, last));
        }
        let addresses = addresses.filter(|a| a.max != 0);
        Ok(NatSpec { side, addresses, ports, choice, persistent })
    }
}

/// A translation that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadNat {
    /// Two families in one range.
    Families(IpAddr, IpAddr),
    /// An address range that ends before it begins.
    Addresses(IpAddr, IpAddr),
    /// A port range that ends before it begins, or begins with 0.
    Ports(u16, u16),
}

impl fmt::Display for BadNat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadNat::Families(a, b) => write!(f, "{a}-{b}: addresses of two families"),
            BadNat::Addresses(a, b) => write!(f, "{a}-{b}: the range ends before it begins"),
            BadNat::Ports(a, b) if *a == 0 => write!(f, "ports {a}-{b}: 0 is not a port"),
            BadNat::Ports(a, b) => write!(f, "ports {a}-{b}: the range ends before it begins"),
        }
    }
}

impl std::error::Error for BadNat {}

impl fmt::Display for NatSpec {
    /// As the action is written: `nat(src=203.0.113.1-203.0.113.9:1024-2048,random)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Src { "src" } else { "dst" };
        write!(f, "nat({side}")?;
        if let Some(a) = &self.addresses {
            let text = |v: u128| match (a.v6, u32::try_from(v)) {
                (false, Ok(v4)) => std::net::Ipv4Addr::from(v4).to_string(),
                _ if self.ports.is_some() => format!("[{}]", std::net::Ipv6Addr::from(v)),
                _ => std::net::Ipv6Addr::from(v).to_string(),
            };
            write!(f, "={}", text(a.min))?;
            if a.max != a.min {
                write!(f, "-{}", text(a.max))?;
            }
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => {}
        }
        if self.choice == Choice::Random {
            write!(f, ",random")?;
        }
        if self.persistent {
            write!(f, ",persistent")?;
        }
        write!(f, ")")
    }
}
