//! What is packet number N?
//!
//! A function of the profile and N alone, but for the time in its stamp. Headers come from a template of each
//! size; a packet is a copy of it with the words of its flow, its stamp, and the checksums that follow, which
//! are sums of what the template has and the few words that differ.
//!
//! Flow F comes from source F mod `sources`, with a source port and then a destination port counted up: all
//! different. Packet N is of flow (N × a + b) mod `flows`, with a and b from the seed and a prime to `flows`, so
//! that each flow comes once in each round of `flows` packets; with new flows a second, the window of flows
//! moves on with N.

use anyhow::{Context, Result, anyhow, ensure};
use flow::checksum::Sum;
use ports::trace::Trace;

use super::profile::Profile;
use super::sizes::FCS;
use super::stamp::{self, Stamp};
use super::template::{Layout, PORTS, Template, put};

/// Flows have source ports from here on, [`PORTS`] of them.
const FIRST_PORT: u16 = 1024;

/// What one flow has of its own.
struct Flow {
    source: u32,
    sport: u16,
    dport: u16,
    number: u64,
}

/// The packets of a profile.
#[derive(Debug)]
pub struct Frames {
    kind: Kind,
    /// Bytes on average, check sequence included.
    mean: f64,
    largest: usize,
}

#[derive(Debug)]
enum Kind {
    Made(Box<Made>),
    Captured(Trace),
}

#[derive(Debug)]
struct Made {
    profile: Profile,
    layout: Layout,
    templates: Vec<Template>,
    /// Template of each packet of a cycle.
    cycle: Vec<usize>,
    stride: u64,
    offset: u64,
    /// Flows that are new with each packet, in units of 2^-32.
    churn: u64,
}

impl Frames {
    /// Prepare the packets of a profile, for so many a second (which only `new_flows` needs).
    ///
    /// # Errors
    /// If the profile cannot be sent, or its file not be read.
    pub fn new(profile: &Profile, pps: Option<f64>) -> Result<Self> {
        profile.check()?;
        if let Some(path) = &profile.pcap {
            let trace = Trace::from_pcap(path).map_err(|e| anyhow!("--pcap {e}"))?;
            ensure!(!trace.is_empty(), "--pcap {}: the file has no frame", path.display());
            let sizes = (0..trace.len()).filter_map(|i| Some(trace.frame(i)?.len() + FCS));
            let (sum, largest) = sizes.fold((0, 0), |(sum, max), n| (sum + n, max.max(n)));
            let mean = sum as f64 / trace.len() as f64;
            return Ok(Self { kind: Kind::Captured(trace), mean, largest });
        }
        let made = Made::new(profile, pps)?;
        let (mean, largest) = (profile.size.mean(), profile.size.largest());
        Ok(Self { kind: Kind::Made(Box::new(made)), mean, largest })
    }

    /// Go on at so many packets a second: new flows are as many a second as before.
    pub fn set_rate(&mut self, pps: f64) {
        if let Kind::Made(made) = &mut self.kind
            && let Some(new) = made.profile.new_flows
        {
            made.churn = churn(new, pps);
        }
    }

    /// Whether packets carry a stamp.
    pub fn are_stamped(&self) -> bool {
        matches!(self.kind, Kind::Made(_))
    }

    /// Bytes of a frame on average, check sequence included.
    pub fn mean_size(&self) -> f64 {
        self.mean
    }

    /// Bytes of the largest frame, check sequence included.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Write packet `n` into `to`, which it replaces; sent at that time in that trial.
    #[inline]
    pub fn write(&self, n: u64, trial: u16, sent: u64, to: &mut Vec<u8>) {
        match &self.kind {
            Kind::Made(made) => made.write(n, Stamp { trial, number: n as u32, sent }, to),
            Kind::Captured(trace) => {
                let frame = trace.frame((n % trace.len() as u64) as usize);
                to.clear();
                to.extend_from_slice(frame.unwrap_or_default());
            }
        }
    }
}

/// New flows a packet, of so many a second, in units of 2^-32.
fn churn(new: f64, pps: f64) -> u64 {
    (new / pps * (1u64 << 32) as f64) as u64
}

impl Made {
    fn new(profile: &Profile, pps: Option<f64>) -> Result<Self> {
        let layout = Layout::new(profile);
        let mut sizes: Vec<usize> = profile.size.cycle().to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let index = |size: &usize| sizes.binary_search(size).unwrap_or(0);
        let mut random = SplitMix(profile.seed);
        let mut cycle: Vec<usize> = profile.size.cycle().iter().map(index).collect();
        random.shuffle(&mut cycle);
        let flows = u64::from(profile.flows);
        let stride = random.prime_to(flows);
        let offset = random.next() % flows;
        let churn = match (profile.new_flows, pps) {
            (None, _) => 0,
            (Some(new), Some(pps)) => churn(new, pps),
            (Some(_), None) => {
                return Err(anyhow!("--new-flows needs a --rate to count seconds by"));
            }
        };
        let templates = sizes.iter().map(|size| Template::new(profile, &layout, *size)).collect();
        Ok(Self { profile: profile.clone(), layout, templates, cycle, stride, offset, churn })
    }

    #[inline]
    fn flow(&self, n: u64) -> Flow {
        let flows = u64::from(self.profile.flows);
        let slot = ((n % flows) * self.stride + self.offset) % flows;
        let moved = ((u128::from(n) * u128::from(self.churn)) >> 32) as u64;
        let sources = u64::from(self.profile.sources);
        // The flow in this place: those that the window has passed come back `flows` further on.
        let rounds = (moved + flows - 1 - slot) / flows;
        let number = (slot + rounds * flows) % self.layout.most_flows(self.profile.sources);
        let (source, rest) = ((number % sources) as u32, number / sources);
        let sport = FIRST_PORT + (rest % PORTS) as u16;
        let dport = self.profile.dst_port.wrapping_add((rest / PORTS) as u16);
        Flow { source, sport, dport, number }
    }

    #[inline]
    fn write(&self, n: u64, stamp: Stamp, to: &mut Vec<u8>) {
        let template = &self.templates[self.cycle[(n % self.cycle.len() as u64) as usize]];
        to.clear();
        to.extend_from_slice(&template.bytes);
        let (layout, flow) = (&self.layout, self.flow(n));
        self.address(&flow, to);
        let last = to.len() - stamp::LEN;
        let stamp = stamp.bytes();
        to[last..].copy_from_slice(&stamp);
        put(to, layout.l4, &flow.sport.to_be_bytes());
        put(to, layout.l4 + 2, &flow.dport.to_be_bytes());
        let source = self.source_ip(&flow, to);
        let sum = template.l4.u16(flow.sport).u16(flow.dport);
        // The stamp is last, as it may stand at an odd offset.
        let sum = source.iter().fold(sum, |sum, word| sum.u32(*word)).bytes(&stamp);
        match layout.tcp {
            true => put(to, layout.l4 + 16, &sum.checksum().to_be_bytes()),
            false => put(to, layout.l4 + 6, &sum.udp_checksum().to_be_bytes()),
        }
    }

    /// Tag, network identifier, MAC address and what is outside.
    #[inline]
    fn address(&self, flow: &Flow, to: &mut [u8]) {
        let layout = &self.layout;
        let turn = |ids: &[u32]| ids[(flow.number % ids.len() as u64) as usize];
        let low = mac_low(self.profile.src_mac.0).wrapping_add(flow.source).to_be_bytes();
        put(to, layout.inner + 8, &low);
        if let (Some(at), Some(ids)) = (layout.tag, &self.profile.vlan) {
            put(to, at + 2, &(turn(&ids.0) as u16).to_be_bytes());
        }
        if let (Some(at), Some(ids)) = (layout.outer, &self.profile.vni) {
            // RFC 7348: the source port carries the inner flow's hash.
            let hash = (flow.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u16;
            put(to, at + 20, &(0xc000 | hash).to_be_bytes());
            put(to, at + 32, &(turn(&ids.0) << 8).to_be_bytes());
        }
    }

    /// Write the source's address, and IPv4's checksum; the words that were written.
    #[inline]
    fn source_ip(&self, flow: &Flow, to: &mut [u8]) -> [u32; 4] {
        let ip = self.layout.ip;
        if self.layout.v6 {
            let address = u128::from(self.profile.src_ip6).wrapping_add(flow.source.into());
            put(to, ip + 8, &address.to_be_bytes());
            return [96, 64, 32, 0].map(|shift| (address >> shift) as u32);
        }
        let address = u32::from(self.profile.src_ip).wrapping_add(flow.source);
        put(to, ip + 12, &address.to_be_bytes());
        let sum = Sum::new().bytes(&to[ip..ip + 20]).checksum();
        put(to, ip + 10, &sum.to_be_bytes());
        [address, 0, 0, 0]
    }
}

/// The last four bytes of a MAC address.
fn mac_low(mac: [u8; 6]) -> u32 {
    u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]])
}

/// Write `count` packets of a profile to a capture file, each with the time at which a sender of exactly `pps`
/// packets a second would send it.
///
/// # Errors
/// If the profile cannot be sent or the file not be written.
pub fn dump(profile: &Profile, pps: f64, count: u64, path: &std::path::Path) -> Result<()> {
    let frames = Frames::new(profile, Some(pps))?;
    let write = || -> Result<()> {
        let file = std::io::BufWriter::new(std::fs::File::create(path)?);
        let mut file = ports::pcap::PcapWriter::new(file)?;
        let mut bytes = Vec::new();
        for n in 0..count {
            let time = std::time::Duration::from_secs_f64(n as f64 / pps);
            frames.write(n, 0, time.as_nanos() as u64, &mut bytes);
            let at = std::time::SystemTime::UNIX_EPOCH + time;
            file.frame(at, bytes.len(), [&bytes[..]])?;
        }
        Ok(file.flush()?)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to mix an order.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = (self.next() % (i as u64 + 1)) as usize;
            list.swap(i, j);
        }
    }

    /// A number below `n` without a common divisor; 1 for the smallest.
    fn prime_to(&mut self, n: u64) -> u64 {
        let gcd = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let mut number = self.next() % n.max(1);
        while gcd(number, n) != 1 {
            number = (number + 1) % n.max(2);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::profile::tests::profile;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn packets(words: &str, count: u64) -> Vec<Vec<u8>> {
        let profile = profile(words).expect(words);
        let frames = Frames::new(&profile, Some(1000.0)).expect(words);
        (0..count)
            .map(|n| {
                let mut bytes = Vec::new();
                frames.write(n, 7, n * 10, &mut bytes);
                bytes
            })
            .collect()
    }

    /// Bytes of addresses and ports of an untagged UDP packet over IPv4.
    fn tuple(frame: &[u8]) -> Vec<u8> {
        [&frame[6..12], &frame[26..38]].concat()
    }

    #[test]
    fn flows_are_as_many_as_wanted_and_each_comes_in_each_round() {
        for flows in [1u64, 2, 10, 1000, 4096] {
            let all = packets(&format!("--flows {flows} --sources 3"), flows * 2);
            let first: HashSet<_> = all[..flows as usize].iter().map(|f| tuple(f)).collect();
            let second: HashSet<_> = all[flows as usize..].iter().map(|f| tuple(f)).collect();
            assert_eq!((first.len() as u64, &first), (flows, &second));
        }
        let sources: HashSet<_> =
            packets("--flows 30 --sources 3", 30).iter().map(|f| f[6..12].to_vec()).collect();
        assert_eq!(sources.len(), 3);
    }

    #[test]
    fn new_flows_come_at_their_rate_and_old_ones_go() {
        // 1,000 packets a second, 100 new flows a second: one with every tenth packet.
        let all = packets("--flows 50 --new-flows 100", 2000);
        let tuples: Vec<_> = all.iter().map(|f| tuple(f)).collect();
        let different: HashSet<_> = tuples.iter().collect();
        assert!((240..=250).contains(&different.len()), "{}", different.len());
        let (first, last): (HashSet<_>, HashSet<_>) =
            (tuples[..50].iter().collect(), tuples[1950..].iter().collect());
        assert!(first.is_disjoint(&last));
    }

    #[test]
    fn sizes_come_in_their_shares() {
        let all = packets("--size imix", 1200);
        let of = |len| all.iter().filter(|f| f.len() == len).count();
        assert_eq!((of(60), of(590), of(1514)), (700, 400, 100));
    }

    #[test]
    fn seeds_change_the_order_and_nothing_else() {
        let words = |seed| format!("--flows 500 --size imix --seed {seed}");
        assert_eq!(packets(&words(5), 600), packets(&words(5), 600));
        assert_ne!(packets(&words(5), 600), packets(&words(6), 600));
    }

    /// The stack of a packet by another's reading of it.
    fn parsed(frame: &[u8]) -> etherparse::SlicedPacket<'_> {
        etherparse::SlicedPacket::from_ethernet(frame).expect("a sound packet")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn packets_are_sound_in_all_shapes(
            size in 150usize..1600, n in 0u64..100_000, flows in 1u32..5000, sources in 1u32..50,
            tcp: bool, v6: bool, tagged: bool, tunnel: bool, seed: u64,
        ) {
            let mut words = format!("--size {size} --flows {flows} --sources {sources} --seed {seed}");
            if tcp { words += " --protocol tcp"; }
            if v6 { words += " --ipv6"; }
            if tagged { words += " --vlan 7,9"; }
            if tunnel { words += " --vni 100-110"; }
            let profile = profile(&words).expect("a sound profile");
            let mut bytes = Vec::new();
            Frames::new(&profile, None).expect("frames").write(n, 3, 4, &mut bytes);
            prop_assert_eq!(bytes.len(), size - FCS);
            let stamp = Stamp { trial: 3, number: n as u32, sent: 4 };
            prop_assert_eq!(Stamp::find(&bytes, 3), Some(stamp));
            let outer = parsed(&bytes);
            prop_assert_eq!(!outer.link_exts.is_empty(), tagged);
            let at = if tunnel { Layout::new(&profile).inner } else { 0 };
            let inner = parsed(&bytes[at..]);
            prop_assert!(inner.net.is_some());
            let layout = Layout::new(&profile);
            // Sums over what a receiver sees are all ones.
            if !v6 {
                prop_assert_eq!(flow::checksum::checksum(&bytes[layout.ip..layout.ip + 20]), 0);
            }
            let l4 = &bytes[layout.l4..];
            let (len, proto) = (l4.len() as u32, if tcp { 6 } else { 17 });
            let pseudo = match v6 {
                true => Sum::new().bytes(&bytes[layout.ip + 8..layout.ip + 40]).u32(len).u32(proto),
                false => Sum::new().bytes(&bytes[layout.ip + 12..layout.ip + 20]).u32(len).u32(proto),
            };
            prop_assert_eq!(pseudo.bytes(l4).checksum(), 0);
            match (inner.transport, tcp) {
                (Some(etherparse::TransportSlice::Tcp(_)), true) => {}
                (Some(etherparse::TransportSlice::Udp(udp)), false) => {
                    prop_assert_eq!(usize::from(udp.length()), l4.len());
                }
                (other, _) => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
