//! What can be asked of and set on an interface by its name?
//!
//! [`NetDevs`] speaks for the network namespace of the thread that made it; its errors name the
//! interface and the operation.
//!
//! Must not know: ports.

use crate::error::PortError;
use crate::sys::{Features, Mac, NetSocket};

/// Interfaces of one network namespace.
#[derive(Debug)]
pub struct NetDevs {
    socket: NetSocket,
}

/// Refuse what cannot be an interface's name (`dev_valid_name` in the kernel, and `%`, which the
/// kernel would replace by a number).
///
/// # Errors
/// [`PortError::BadName`].
pub fn check_name(name: &str) -> Result<(), PortError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 15 {
        "it has more than 15 bytes"
    } else if name == "." || name == ".." {
        "it is reserved"
    } else if name.bytes().any(|b| b == b'/' || b == b':' || b == b'%' || b.is_ascii_whitespace()) {
        "it has a slash, a colon, a percent sign or white space"
    } else if name.bytes().any(|b| b.is_ascii_control()) {
        "it has a control character"
    } else {
        return Ok(());
    };
    Err(PortError::BadName { interface: name.to_owned(), why })
}

impl NetDevs {
    /// Interfaces of this thread's network namespace.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn new() -> Result<NetDevs, PortError> {
        let socket =
            NetSocket::new().map_err(|e| PortError::system("interfaces", "open a socket", e))?;
        Ok(NetDevs { socket })
    }

    /// The interface's index; `None` if there is none of that name.
    ///
    /// # Errors
    /// What the kernel refuses; so for all methods here.
    pub fn ifindex(&self, name: &str) -> Result<Option<u32>, PortError> {
        check_name(name)?;
        self.socket.ifindex(name).map_err(|e| PortError::system(name, "look up the interface", e))
    }

    /// The interface's index, which must be there.
    pub fn require(&self, name: &str) -> Result<u32, PortError> {
        self.ifindex(name)?.ok_or_else(|| PortError::NoSuchInterface { interface: name.to_owned() })
    }

    /// The interface's name; `None` if there is none of that index.
    pub fn name(&self, ifindex: u32) -> Option<String> {
        self.socket.name(ifindex).ok().flatten()
    }

    /// Whether the interface is up (administratively).
    pub fn is_up(&self, name: &str) -> Result<bool, PortError> {
        Ok(self.flags(name)? & libc::IFF_UP != 0)
    }

    /// Set the interface up or down.
    pub fn set_up(&self, name: &str, up: bool) -> Result<(), PortError> {
        let (on, off) = if up { (libc::IFF_UP, 0) } else { (0, libc::IFF_UP) };
        self.change_flags(name, on, off, if up { "set up" } else { "set down" })
    }

    /// The interface's MTU in bytes.
    pub fn mtu(&self, name: &str) -> Result<u32, PortError> {
        self.socket.mtu(name).map_err(|e| PortError::system(name, "read the MTU", e))
    }

    /// Set the interface's MTU in bytes.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), PortError> {
        self.socket.set_mtu(name, mtu).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL | libc::ERANGE) => PortError::BadValue {
                interface: name.to_owned(),
                key: "mtu",
                value: mtu.to_string(),
                expected: "the interface does not take this MTU",
            },
            _ => PortError::system(name, "set the MTU", e),
        })
    }

    /// The interface's hardware address.
    pub fn mac(&self, name: &str) -> Result<Mac, PortError> {
        self.socket.mac(name).map_err(|e| PortError::system(name, "read the address", e))
    }

    /// Set the interface's hardware address.
    pub fn set_mac(&self, name: &str, mac: Mac) -> Result<(), PortError> {
        self.socket.set_mac(name, mac).map_err(|e| match e.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => PortError::BadValue {
                interface: name.to_owned(),
                key: "mac",
                value: format_mac(mac),
                expected: "a unicast address, not all zeroes",
            },
            _ => PortError::system(name, "set the address", e),
        })
    }

    /// The name of the interface's driver; empty if it says none.
    pub fn driver(&self, name: &str) -> Result<String, PortError> {
        self.socket.driver(name).map_err(|e| PortError::system(name, "ask for the driver", e))
    }

    /// Receive queues in use; `None` if the driver does not say.
    pub fn rx_queues(&self, name: &str) -> Result<Option<u32>, PortError> {
        self.socket.rx_channels(name).map_err(|e| PortError::system(name, "count the queues", e))
    }

    pub(crate) fn flags(&self, name: &str) -> Result<i32, PortError> {
        self.socket.flags(name).map_err(|e| PortError::system(name, "read the flags", e))
    }

    pub(crate) fn change_flags(
        &self,
        name: &str,
        on: i32,
        off: i32,
        operation: &'static str,
    ) -> Result<(), PortError> {
        self.socket.change_flags(name, on, off).map_err(|e| PortError::system(name, operation, e))
    }

    pub(crate) fn features(&self, name: &str) -> Result<Features, PortError> {
        self.socket.features(name).map_err(|e| PortError::system(name, "read the features", e))
    }

    pub(crate) fn set_features(
        &self,
        name: &str,
        features: &Features,
        changes: &[(&str, bool)],
    ) -> Result<(), PortError> {
        self.socket
            .set_features(name, features, changes)
            .map_err(|e| PortError::system(name, "change the features", e))
    }
}

/// A hardware address as people write it.
pub fn format_mac(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["eth0", "tap1234567890a", "a.b", "vm-1_x@y", "123456789012345"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "1234567890123456", ".", "..", "a/b", "a b", "a:b", "tap%d", "x\n", "\0"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
