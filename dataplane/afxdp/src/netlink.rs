//! What does the kernel know about an interface that matters for AF_XDP?
//!
//! Two questions, asked by netlink: of rtnetlink, which XDP program is attached and what kind of
//! link it is; of the `netdev` family, what the driver can do. One request, one answer, no state.
//! Sources: `rtnetlink(7)`, `Documentation/netlink/specs/netdev.yaml`.
//!
//! Must not know: sockets, programs.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::sys;

const NETLINK_ROUTE: i32 = 0;
const NETLINK_GENERIC: i32 = 16;
const F_REQUEST: u16 = 1;
const MSG_ERROR: u16 = 2;
const HEADER: usize = 16;

const RTM_GETLINK: u16 = 18;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP: u16 = 43;
const XDP_ATTACHED: u16 = 2;
const XDP_PROG_ID: u16 = 4;
const XDP_DRV_PROG_ID: u16 = 5;
const XDP_SKB_PROG_ID: u16 = 6;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
const NETDEV_A_DEV_XDP_RX_METADATA_FEATURES: u16 = 5;
const NETDEV_A_DEV_XSK_FEATURES: u16 = 6;

/// What rtnetlink says of a link.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Id of the XDP program attached to it.
    pub xdp_program: Option<u32>,
    /// Its kind (`veth`, `tun`, `vxlan`, ...); empty for most hardware.
    pub kind: String,
}

/// What a driver says it can do (flags of the `netdev` family).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features {
    /// Native XDP with redirection.
    pub native: bool,
    /// AF_XDP without a copy.
    pub zero_copy: bool,
    /// Frames of several buffers on receive.
    pub frags: bool,
    /// Tells programs the VLAN tag that it stripped.
    pub vlan_tag: bool,
    /// Finishes checksums of sent frames on request, without a copy. (In copy mode the kernel does.)
    pub tx_checksum: bool,
    /// Most buffers of one frame without a copy; 0 if unknown.
    pub zero_copy_buffers: u32,
}

/// Ask rtnetlink about a link.
///
/// # Errors
/// What the kernel answered: ENODEV if there is no such interface.
pub fn link(ifindex: u32) -> io::Result<Link> {
    let mut body = vec![0u8; 16]; // struct ifinfomsg
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let answer = ask(NETLINK_ROUTE, RTM_GETLINK, &body)?;
    let mut link = Link::default();
    for (kind, value) in attributes(answer.get(16..).unwrap_or_default()) {
        match kind {
            IFLA_LINKINFO => {
                if let Some((_, name)) = attributes(value).find(|(k, _)| *k == IFLA_INFO_KIND) {
                    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                    link.kind = String::from_utf8_lossy(&name[..end]).into_owned();
                }
            }
            IFLA_XDP => link.xdp_program = attached(value),
            _ => {}
        }
    }
    Ok(link)
}

/// The id of a program in an IFLA_XDP attribute.
fn attached(xdp: &[u8]) -> Option<u32> {
    let mode = attributes(xdp).find(|(k, _)| *k == XDP_ATTACHED)?.1.first()?;
    if *mode == 0 {
        return None;
    }
    [XDP_PROG_ID, XDP_DRV_PROG_ID, XDP_SKB_PROG_ID]
        .iter()
        .find_map(|want| attributes(xdp).find(|(k, _)| k == want).map(|(_, v)| number(v) as u32))
}

/// Ask the driver's abilities. Kernels without the `netdev` family (before 6.3) answer ENOENT.
///
/// # Errors
/// What the kernel answered.
pub fn features(ifindex: u32) -> io::Result<Features> {
    let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    attribute(&mut body, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = ask(NETLINK_GENERIC, GENL_ID_CTRL, &body)?;
    let family = attributes(answer.get(4..).unwrap_or_default())
        .find(|(k, _)| *k == CTRL_ATTR_FAMILY_ID)
        .map(|(_, v)| number(v) as u16)
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
    attribute(&mut body, NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
    let answer = ask(NETLINK_GENERIC, family, &body)?;
    let mut f = Features::default();
    for (kind, value) in attributes(answer.get(4..).unwrap_or_default()) {
        let bits = number(value);
        match kind {
            NETDEV_A_DEV_XDP_FEATURES => {
                f.native = bits & 3 == 3; // basic, redirect
                f.zero_copy = bits & 8 != 0;
                f.frags = bits & 32 != 0;
            }
            NETDEV_A_DEV_XDP_ZC_MAX_SEGS => f.zero_copy_buffers = bits as u32,
            NETDEV_A_DEV_XDP_RX_METADATA_FEATURES => f.vlan_tag = bits & 4 != 0,
            NETDEV_A_DEV_XSK_FEATURES => f.tx_checksum = bits & 2 != 0,
            _ => {}
        }
    }
    Ok(f)
}

/// Append an attribute, padded to 4 bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes in a message's body: kind without its flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..4)?;
        let len = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An integer of up to 8 bytes, as the machine writes it.
fn number(value: &[u8]) -> u64 {
    let mut wide = [0; 8];
    let n = value.len().min(8);
    if cfg!(target_endian = "little") {
        wide[..n].copy_from_slice(&value[..n]);
    } else {
        wide[8 - n..].copy_from_slice(&value[..n]);
    }
    u64::from_ne_bytes(wide)
}

/// Send one request and return the body of its one answer.
fn ask(protocol: i32, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&F_REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8]); // Sequence and port: one question on a socket of its own.
    message.extend_from_slice(body);
    let mut socket = File::from(sys::netlink(protocol)?);
    socket.write_all(&message)?;
    let mut answer = vec![0; 64 << 10];
    let n = socket.read(&mut answer)?;
    answer.truncate(n);
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let len = answer.get(..4).map(number).ok_or_else(broken)? as usize;
    let kind = answer.get(4..6).map(number).ok_or_else(broken)? as u16;
    let body = answer.get(HEADER..len.min(n)).ok_or_else(broken)?;
    if kind == MSG_ERROR {
        let errno = body.get(..4).map(number).ok_or_else(broken)? as u32 as i32;
        return Err(io::Error::from_raw_os_error(-errno));
    }
    Ok(body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_program() {
        let link = link(1).expect("rtnetlink answers anybody");
        assert_eq!(link.xdp_program, None);
    }

    #[test]
    fn an_interface_that_is_not_there() {
        let e = link(0x7fff_0000).expect_err("no such interface");
        assert_eq!(e.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn broken_attributes_end_the_list() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its head");
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).count(), 0, "longer than the message");
        let two = [5u8, 0, 7, 0, 1, 0, 0, 0, 4, 0, 8, 0];
        let found: Vec<_> = attributes(&two).collect();
        assert_eq!(found, [(7, &[1u8][..]), (8, &[][..])]);
    }
}
