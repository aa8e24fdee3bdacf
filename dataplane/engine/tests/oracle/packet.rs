//! A packet as its bytes, changed field by field with checksums made anew.

use flow::{Field, FlowKey, extract};
use ofproto::action::OfPort;
use ofproto::mf::Mf;

/// A packet on its way.
#[derive(Clone)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub in_port: OfPort,
    pub regs: [u32; 16],
    pub metadata: u64,
}

impl Packet {
    /// As it came in by a port.
    pub fn new(bytes: Vec<u8>, in_port: OfPort) -> Packet {
        Packet { bytes, in_port, regs: [0; 16], metadata: 0 }
    }

    pub fn key(&self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        extract(&self.bytes, self.bytes.len(), &mut key);
        key.set(Field::InPort, u128::from(self.in_port.0));
        for (n, v) in self.regs.iter().enumerate() {
            Mf::reg(n).expect("a register").set(&mut key, u128::from(*v), u128::from(u32::MAX));
        }
        key.set(Field::Metadata, u128::from(self.metadata));
        key
    }

    /// Where the Ethernet type stands.
    pub fn ethertype_at(&self) -> usize {
        let mut at = 12;
        while matches!(self.be16(at), 0x8100 | 0x88a8) && at < 20 {
            at += 4;
        }
        at
    }

    fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// Type and control information of the tags, the outermost first.
    pub fn tags(&self) -> Vec<(u16, u16)> {
        let end = self.ethertype_at();
        (12..end).step_by(4).map(|at| (self.be16(at), self.be16(at + 2))).collect()
    }

    /// Give the packet these tags in place of those that it has.
    pub fn set_tags(&mut self, tags: &[(u16, u16)]) {
        let bytes = tags.iter().flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()]);
        let end = self.ethertype_at();
        self.bytes.splice(12..end, bytes.flatten());
    }

    fn is_tagged(&self) -> bool {
        matches!(self.be16(12), 0x8100 | 0x88a8)
    }

    /// Change bits of the outermost tag; put one on if there is none.
    pub fn change_tag(&mut self, value: u16, mask: u16) {
        if !self.is_tagged() {
            self.bytes.splice(12..12, [0x81, 0, 0, 0]);
        }
        let tci = self.be16(14) & !mask | value;
        self.bytes[14..16].copy_from_slice(&tci.to_be_bytes());
    }

    /// Take the outermost tag off, if there is one.
    pub fn strip_tag(&mut self) {
        if self.is_tagged() {
            self.bytes.drain(12..16);
        }
    }

    fn is_ipv4(&self) -> bool {
        self.be16(self.ethertype_at()) == 0x0800
    }

    fn is_ipv6(&self) -> bool {
        self.be16(self.ethertype_at()) == 0x86dd
    }

    /// The number of the protocol inside IP, and where its header stands.
    fn l4(&self) -> Option<(u8, usize)> {
        let is_ip = self.is_ipv4() || self.is_ipv6();
        is_ip.then(|| l4_of(&self.bytes, self.ethertype_at() + 2))
    }

    /// The place of the ports, if the packet has any.
    fn ports_at(&self) -> Option<usize> {
        self.l4().filter(|(proto, _)| matches!(proto, 6 | 17)).map(|(_, at)| at)
    }

    /// The place of the ICMPv6 header, if the packet has one.
    fn icmp6_at(&self) -> Option<usize> {
        self.l4().filter(|(proto, _)| *proto == 58).map(|(_, at)| at)
    }

    /// The place of the TTL or hop limit, if the packet has one.
    pub fn ttl_at(&self) -> Option<usize> {
        let at = self.ethertype_at() + 2;
        self.l4().map(|_| if self.is_ipv4() { at + 8 } else { at + 7 })
    }

    /// Change bits of the type of service or traffic class.
    fn change_tos(&mut self, value: u8, mask: u8) {
        let at = self.ethertype_at() + 2;
        if self.is_ipv4() {
            self.bytes[at + 1] = self.bytes[at + 1] & !mask | value & mask;
            self.fix();
        } else if self.is_ipv6() {
            let old = (self.be16(at) >> 4) as u8;
            let new = u16::from(old & !mask | value & mask);
            let word = self.be16(at) & 0xf00f | new << 4;
            self.put(at, &word.to_be_bytes());
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Make checksums right after a change.
    pub fn fix(&mut self) {
        let at = self.ethertype_at() + 2;
        let (proto, l4) = l4_of(&self.bytes, at);
        let summed = proto != 17 || self.be16(l4 + 6) != 0;
        fix_checksums(&mut self.bytes, at, summed);
    }

    /// What packets of one flow have in common.
    pub fn flow(&self) -> Vec<u128> {
        use Mf::*;
        let mut of = vec![EthSrc, EthDst, EthType];
        if self.is_ipv4() {
            of.extend([IpSrc, IpDst, NwProto]);
        } else if self.is_ipv6() {
            of.extend([Ipv6Src, Ipv6Dst, NwProto]);
        }
        if self.ports_at().is_some() {
            of.extend([TcpSrc, TcpDst]);
        }
        of.into_iter().map(|f| self.read(f)).collect()
    }

    fn read(&self, field: Mf) -> u128 {
        field.get(&self.key())
    }

    pub fn write(&mut self, field: Mf, value: u128, mask: u128) {
        let v = self.read(field) & !mask | value & mask;
        match field {
            Mf::EthSrc => self.put(6, &v.to_be_bytes()[10..]),
            Mf::EthDst => self.put(0, &v.to_be_bytes()[10..]),
            Mf::InPort => self.in_port = OfPort::from_16(v as u16),
            Mf::Metadata => self.metadata = v as u64,
            Mf::IpSrc | Mf::IpDst if self.is_ipv4() => {
                let at = self.ethertype_at() + 2 + if field == Mf::IpSrc { 12 } else { 16 };
                self.put(at, &v.to_be_bytes()[12..]);
                self.fix();
            }
            Mf::IpSrc | Mf::IpDst => {}
            Mf::Ipv6Src | Mf::Ipv6Dst if self.is_ipv6() => {
                let at = self.ethertype_at() + 2 + if field == Mf::Ipv6Src { 8 } else { 24 };
                self.put(at, &v.to_be_bytes());
                self.fix();
            }
            Mf::Ipv6Label if self.is_ipv6() => {
                let at = self.ethertype_at() + 3;
                let high = self.bytes[at] & 0xf0 | (v >> 16) as u8;
                self.put(at, &[high, (v >> 8) as u8, v as u8]);
            }
            Mf::Ipv6Src | Mf::Ipv6Dst | Mf::Ipv6Label => {}
            Mf::NwTos => self.change_tos(v as u8, 0xfc),
            Mf::IpDscp => self.change_tos((v << 2) as u8, 0xfc),
            Mf::NwEcn => self.change_tos(v as u8, 3),
            Mf::NwTtl => {
                if let Some(at) = self.ttl_at() {
                    self.bytes[at] = v as u8;
                    self.fix();
                }
            }
            Mf::Icmpv6Type | Mf::NdTarget | Mf::NdSll => {
                let Some(at) = self.icmp6_at() else { return };
                match field {
                    Mf::Icmpv6Type => self.bytes[at] = v as u8,
                    _ if self.bytes[at] != 135 => {}
                    Mf::NdTarget => self.put(at + 8, &v.to_be_bytes()),
                    // Behind the target, and the type and length of the option.
                    _ => self.put(at + 26, &v.to_be_bytes()[10..]),
                }
                self.fix();
            }
            Mf::VlanVid => self.change_tag(v as u16 & 0xfff, 0xfff),
            Mf::VlanTci if v & 0x1000 != 0 => self.change_tag(v as u16 & 0xefff, 0xefff),
            Mf::VlanTci => self.strip_tag(),
            _ if is_port(field) => {
                let is_src = matches!(field, Mf::TcpSrc | Mf::UdpSrc);
                if let Some(at) = self.ports_at() {
                    self.put(at + if is_src { 0 } else { 2 }, &v.to_be_bytes()[14..]);
                    self.fix();
                }
            }
            _ => {
                let n = (0..16).find(|n| Mf::reg(*n) == Some(field));
                self.regs[n.unwrap_or_else(|| panic!("the oracle cannot set {}", field.name()))] =
                    v as u32;
            }
        }
    }
}

fn is_port(field: Mf) -> bool {
    matches!(field, Mf::TcpSrc | Mf::TcpDst | Mf::UdpSrc | Mf::UdpDst)
}

/// The protocol inside the IP packet at `at`, and where its header stands.
fn l4_of(f: &[u8], at: usize) -> (u8, usize) {
    if f[at] >> 4 == 6 { (f[at + 6], at + 40) } else { (f[at + 9], at + 20) }
}

/// Write the checksums of an IP packet at `at` anew; that of the protocol inside only if it has one.
pub fn fix_checksums(f: &mut [u8], at: usize, with_l4: bool) {
    let (proto, l4) = l4_of(f, at);
    let be16 = |f: &[u8], at: usize| usize::from(u16::from_be_bytes([f[at], f[at + 1]]));
    let (addresses, end) = if f[at] >> 4 == 6 {
        (at + 8..l4, l4 + be16(f, at + 4))
    } else {
        f[at + 10..at + 12].fill(0);
        let header = sum(&f[at..l4], 0);
        f[at + 10..at + 12].copy_from_slice(&header.to_be_bytes());
        (at + 12..l4, at + be16(f, at + 2))
    };
    let field = match proto {
        6 => l4 + 16,
        17 => l4 + 6,
        1 | 58 => l4 + 2,
        _ => return,
    };
    f[field..field + 2].fill(0);
    if !with_l4 {
        return;
    }
    let pseudo = match proto {
        1 => 0,
        _ => {
            let words = f[addresses].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])));
            words.sum::<u32>() + u32::from(proto) + (end - l4) as u32
        }
    };
    let mut value = sum(&f[l4..end], pseudo);
    if proto == 17 && value == 0 {
        value = 0xffff;
    }
    f[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// The internet checksum (RFC 1071), from this start.
fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start;
    for c in bytes.chunks(2) {
        total += u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    !(total as u16)
}
