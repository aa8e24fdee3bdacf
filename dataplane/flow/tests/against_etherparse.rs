//! Legal packets built by etherparse read as what they were built from.

use etherparse::{
    Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder,
    TcpHeader, VlanId, VlanPcp,
};
use flow::extract::Fault;
use flow::{Field, FlowKey};
use proptest::prelude::*;

fn extracted(frame: &[u8]) -> FlowKey {
    let mut key = FlowKey::default();
    assert_eq!(flow::extract(frame, frame.len(), &mut key).fault, Fault::None);
    key
}

fn tcp_header(ports: (u16, u16), flags: u16, options: usize) -> TcpHeader {
    let mut h = TcpHeader::new(ports.0, ports.1, 7, 1000);
    let bit = |n: u16| flags >> n & 1 == 1;
    (h.fin, h.syn, h.rst, h.psh) = (bit(0), bit(1), bit(2), bit(3));
    (h.ack, h.urg, h.ece, h.cwr, h.ns) = (bit(4), bit(5), bit(6), bit(7), bit(8));
    h.set_options_raw(&vec![1; options]).unwrap();
    h
}

#[derive(Clone, Debug)]
struct Plan {
    macs: ([u8; 6], [u8; 6]),
    tags: Vec<(u8, u16)>,
    v6: bool,
    src: u128,
    dst: u128,
    tos: u8,
    ttl: u8,
    label: u32,
    l4: u8,
    ports: (u16, u16),
    flags: u16,
    options: usize,
    payload: Vec<u8>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let l2 = (any::<([u8; 6], [u8; 6])>(), prop::collection::vec((0u8..8, 0u16..4096), 0..3));
    let l3 = (any::<bool>(), any::<(u128, u128)>(), any::<(u8, u8)>(), 0u32..1 << 20);
    let l4 = (0u8..4, any::<(u16, u16)>(), 0u16..512, 0usize..11);
    (l2, l3, l4, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(l2, l3, l4, payload)| {
        Plan {
            macs: l2.0,
            tags: l2.1,
            v6: l3.0,
            src: l3.1.0,
            dst: l3.1.1,
            tos: l3.2.0,
            ttl: l3.2.1,
            label: l3.3,
            l4: l4.0,
            ports: l4.1,
            flags: l4.2,
            options: l4.3 * 4,
            payload,
        }
    })
}

/// The IP header, L4 and payload of the plan, by etherparse.
fn ip_packet(p: &Plan) -> Vec<u8> {
    let l4 = |v4: Option<&Ipv4Header>, v6: Option<&Ipv6Header>| -> (IpNumber, Vec<u8>) {
        let mut out = Vec::new();
        match p.l4 {
            0 => {
                let mut h = tcp_header(p.ports, p.flags, p.options);
                h.checksum = match (v4, v6) {
                    (Some(ip), _) => h.calc_checksum_ipv4(ip, &p.payload).unwrap(),
                    (_, Some(ip)) => h.calc_checksum_ipv6(ip, &p.payload).unwrap(),
                    _ => unreachable!(),
                };
                h.write(&mut out).unwrap();
                out.extend(&p.payload);
                (IpNumber::TCP, out)
            }
            1 => {
                let h = etherparse::UdpHeader::without_ipv4_checksum(
                    p.ports.0,
                    p.ports.1,
                    p.payload.len(),
                )
                .unwrap();
                h.write(&mut out).unwrap();
                out.extend(&p.payload);
                (IpNumber::UDP, out)
            }
            2 => {
                let (ty, number) =
                    if p.v6 { (128, IpNumber::IPV6_ICMP) } else { (8, IpNumber::ICMP) };
                out.extend([ty, 0, 0, 0, 0, 1, 0, 2]);
                out.extend(&p.payload);
                (number, out)
            }
            _ => (IpNumber::GRE, p.payload.clone()),
        }
    };
    let mut packet = Vec::new();
    if p.v6 {
        let mut ip = Ipv6Header {
            traffic_class: p.tos,
            flow_label: Ipv6FlowLabel::try_new(p.label).unwrap(),
            hop_limit: p.ttl,
            source: p.src.to_be_bytes(),
            destination: p.dst.to_be_bytes(),
            ..Default::default()
        };
        let (number, bytes) = l4(None, Some(&ip));
        ip.next_header = number;
        ip.payload_length = bytes.len() as u16;
        ip.write(&mut packet).unwrap();
        packet.extend(bytes);
    } else {
        let (src, dst) = ((p.src as u32).to_be_bytes(), (p.dst as u32).to_be_bytes());
        let mut ip = Ipv4Header::new(0, p.ttl, IpNumber::TCP, src, dst).unwrap();
        ip.dscp = etherparse::IpDscp::try_new(p.tos >> 2).unwrap();
        ip.ecn = etherparse::IpEcn::try_new(p.tos & 3).unwrap();
        ip.options = p.label.to_be_bytes().repeat(p.options / 8).as_slice().try_into().unwrap();
        let (number, bytes) = l4(Some(&ip), None);
        ip.protocol = number;
        ip.set_payload_len(bytes.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        ip.fragment_offset = IpFragOffset::ZERO;
        ip.write(&mut packet).unwrap();
        packet.extend(bytes);
    }
    packet
}

fn frame(p: &Plan) -> Vec<u8> {
    let ty = if p.v6 { 0x86dd } else { 0x800u16 };
    let mut out = Vec::new();
    let first = if p.tags.is_empty() { ty } else { 0x8100 };
    Ethernet2Header { source: p.macs.0, destination: p.macs.1, ether_type: first.into() }
        .write(&mut out)
        .unwrap();
    for (i, (pcp, vid)) in p.tags.iter().enumerate() {
        let next = if i + 1 < p.tags.len() { 0x8100 } else { ty };
        let tag = etherparse::SingleVlanHeader {
            pcp: VlanPcp::try_new(*pcp).unwrap(),
            drop_eligible_indicator: false,
            vlan_id: VlanId::try_new(*vid).unwrap(),
            ether_type: next.into(),
        };
        tag.write(&mut out).unwrap();
    }
    out.extend(ip_packet(p));
    out
}

fn number(mac: [u8; 6]) -> u128 {
    mac.iter().fold(0, |n, b| n << 8 | u128::from(*b))
}

/// The key that the plan describes.
fn expected(p: &Plan) -> FlowKey {
    let mut k = FlowKey::default();
    k.set(Field::EthSrc, number(p.macs.0));
    k.set(Field::EthDst, number(p.macs.1));
    k.set(Field::EthType, if p.v6 { 0x86dd } else { 0x800 });
    for ((pcp, vid), (tci, tpid)) in
        p.tags.iter().zip([(Field::VlanTci, Field::VlanTpid), (Field::Vlan1Tci, Field::Vlan1Tpid)])
    {
        k.set(tci, u128::from(*pcp) << 13 | 0x1000 | u128::from(*vid));
        k.set(tpid, 0x8100);
    }
    if p.v6 {
        k.set(Field::Ipv6Src, p.src);
        k.set(Field::Ipv6Dst, p.dst);
        k.set(Field::Ipv6Label, p.label.into());
    } else {
        k.set(Field::NwSrc, p.src);
        k.set(Field::NwDst, p.dst);
    }
    k.set(Field::NwTos, p.tos.into());
    k.set(Field::NwTtl, p.ttl.into());
    let (proto, src, dst, flags) = match p.l4 {
        0 => (6, p.ports.0, p.ports.1, p.flags),
        1 => (17, p.ports.0, p.ports.1, 0),
        2 if p.v6 => (58, 128, 0, 0),
        2 => (1, 8, 0, 0),
        _ => (47, 0, 0, 0),
    };
    k.set(Field::NwProto, proto);
    k.set(Field::TpSrc, src.into());
    k.set(Field::TpDst, dst.into());
    k.set(Field::TcpFlags, flags.into());
    k
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn reads_what_was_built(p in plan()) {
        prop_assert_eq!(extracted(&frame(&p)), expected(&p));
    }

    /// What is read can be composed again, to the same bytes where the plan has no options.
    #[test]
    fn composes_to_the_same_packet(p in plan()) {
        let key = extracted(&frame(&p));
        let composed = flow::build::compose(&key, &p.payload);
        prop_assert_eq!(extracted(&composed), key);
    }
}

#[test]
fn packet_builder_agrees() {
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
        .double_vlan(VlanId::try_new(5).unwrap(), VlanId::try_new(6).unwrap())
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 17)
        .udp(1000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").unwrap();
    let key = extracted(&frame);
    assert_eq!(key.get(Field::VlanTci), 0x1005);
    assert_eq!(key.get(Field::VlanTpid), 0x88a8);
    assert_eq!(key.get(Field::Vlan1Tci), 0x1006);
    assert_eq!(key.get(Field::TpDst), 53);
}
