//! Which traffic is wanted? What a user says of it, checked.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use e2e::frame::Mac;

use super::sizes::{FCS, Sizes};
use super::stamp;
use super::template::Layout;

/// Most flows and sources.
pub const MOST_FLOWS: u32 = 100_000_000;

/// Protocol of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Udp,
    /// Data segments of connections nobody opened; `pktgen connections` opens them
    Tcp,
}

/// Numbers such as `10,20-29`, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbers(pub Vec<u32>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: u32 = 1 << 16;
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let wrong = || format!("`{part}` is no number and no range: 10, or 10,20-29");
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let low: u32 = low.parse().map_err(|_| wrong())?;
            let high: u32 = high.parse().map_err(|_| wrong())?;
            if low > high {
                return Err(format!("`{part}`: the range ends before it begins"));
            }
            if high - low >= MOST || numbers.len() as u32 + (high - low) >= MOST {
                return Err(format!("`{text}`: more than {MOST} numbers"));
            }
            numbers.extend(low..=high);
        }
        Ok(Self(numbers))
    }
}

/// A number with or without a fraction.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

/// The traffic, as the command line says it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct Profile {
    /// Frame sizes in bytes, check sequence included: 64, or 64,512,1518 in turn, or imix
    #[arg(long, default_value = "64", value_name = "SIZES")]
    pub size: Sizes,
    /// Different flows (addresses and ports), in an order that the seed makes
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_FLOWS)))]
    pub flows: u32,
    /// Machines that they come from, each with a MAC and an IP address
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub sources: u32,
    /// New flows a second: as many of the oldest are not used any more
    #[arg(long, value_name = "N", conflicts_with = "pcap", value_parser = number)]
    pub new_flows: Option<f64>,
    /// Protocol inside
    #[arg(long, value_enum, default_value_t = Protocol::Udp)]
    pub protocol: Protocol,
    /// IPv6 instead of IPv4
    #[arg(long)]
    pub ipv6: bool,
    /// VLAN tags that flows have in turn: 10, or 10,20-29
    #[arg(long, value_name = "IDS")]
    pub vlan: Option<Numbers>,
    /// Send VXLAN packets, whose network identifiers flows have in turn: 100, or 100-199
    #[arg(long, value_name = "IDS")]
    pub vni: Option<Numbers>,
    /// Send the frames of a capture file, as they are, again and again; no flow, loss by number alone
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["size", "flows", "sources", "protocol", "ipv6", "vlan", "vni"])]
    pub pcap: Option<PathBuf>,
    /// The same seed gives the same packets
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// MAC address of the first source
    #[arg(long, default_value = "02:00:00:00:00:01", value_name = "MAC")]
    pub src_mac: Mac,
    /// MAC address of the destination
    #[arg(long, default_value = "02:00:01:00:00:01", value_name = "MAC")]
    pub dst_mac: Mac,
    /// IPv4 address of the first source
    #[arg(long, default_value = "10.0.0.1", value_name = "IP")]
    pub src_ip: Ipv4Addr,
    /// IPv4 address of the destination
    #[arg(long, default_value = "10.128.0.1", value_name = "IP")]
    pub dst_ip: Ipv4Addr,
    /// IPv6 address of the first source
    #[arg(long, default_value = "2001:db8::1:0:1", value_name = "IP")]
    pub src_ip6: Ipv6Addr,
    /// IPv6 address of the destination
    #[arg(long, default_value = "2001:db8::2:0:1", value_name = "IP")]
    pub dst_ip6: Ipv6Addr,
    /// Port of the destination
    #[arg(long, default_value_t = 5000, value_name = "PORT")]
    pub dst_port: u16,
    /// Outer source and destination of VXLAN packets
    #[arg(
        long,
        default_value = "172.16.0.2,172.16.0.1",
        value_name = "IP,IP",
        value_delimiter = ',',
        num_args = 1
    )]
    pub tunnel: Vec<Ipv4Addr>,
}

impl Profile {
    /// Refuse what cannot be sent.
    ///
    /// # Errors
    /// What is wrong, and what would do.
    pub fn check(&self) -> Result<()> {
        if self.pcap.is_some() {
            return Ok(());
        }
        for id in self.vlan.iter().flat_map(|ids| &ids.0) {
            ensure!((1..=4094).contains(id), "--vlan {id}: a VLAN is a number from 1 to 4094");
        }
        for id in self.vni.iter().flat_map(|ids| &ids.0) {
            ensure!(*id < 1 << 24, "--vni {id}: a network identifier is below 16,777,216");
        }
        ensure!(self.tunnel.len() == 2, "--tunnel: two addresses, such as 172.16.0.2,172.16.0.1");
        let mac = self.src_mac;
        ensure!(mac.0[0] & 1 == 0, "--src-mac {mac} is the address of a group, not of a machine");
        if let Some(n) = self.new_flows {
            ensure!(
                n > 0.0 && n <= f64::from(MOST_FLOWS),
                "--new-flows {n}: more than 0, at most {MOST_FLOWS}"
            );
        }
        let most = Layout::new(self).most_flows(self.sources);
        if u64::from(self.flows) > most {
            bail!("--flows {}: at most {most} with --sources {}", self.flows, self.sources);
        }
        let need = Layout::new(self).headers() + stamp::LEN + FCS;
        if self.size.smallest() < need {
            bail!(
                "--size {}: there is no room for these headers and the {} bytes that packets are \
                 followed by: at least {need} (--size {need})",
                self.size.smallest(),
                stamp::LEN
            );
        }
        Ok(())
    }

    /// What it is, in a line for reports.
    pub fn summary(&self) -> String {
        let flows = if self.flows == 1 { "flow" } else { "flows" };
        self.summary_of(&format!("{} {flows}", self.flows))
    }

    /// The same with other words for how many flows.
    pub fn summary_of(&self, flows: &str) -> String {
        if let Some(path) = &self.pcap {
            return format!("frames of {}", path.display());
        }
        let protocol = match self.protocol {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        };
        let ip = if self.ipv6 { "IPv6" } else { "IPv4" };
        let mut text = format!("{}, {flows} of {protocol}/{ip}", self.size.describe());
        if self.sources > 1 {
            text += &format!(" from {} sources", self.sources);
        }
        if let Some(n) = self.new_flows {
            text += &format!(", {n} new a second");
        }
        for (ids, what) in [(&self.vlan, "VLAN"), (&self.vni, "VXLAN network")] {
            if let Some(ids) = ids {
                let several = if ids.0.len() == 1 { "" } else { "s" };
                text += &format!(", {} {what}{several}", ids.0.len());
            }
        }
        text + &format!(", seed {}", self.seed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        profile: Profile,
    }

    /// A profile from words.
    pub(crate) fn profile(words: &str) -> Result<Profile> {
        let line = Line::try_parse_from(std::iter::once("x").chain(words.split_whitespace()))?;
        line.profile.check()?;
        Ok(line.profile)
    }

    #[test]
    fn what_fits_is_taken_and_what_does_not_is_explained() {
        assert!(profile("").is_ok());
        assert!(profile("--size 64 --vlan 10,20-29").is_ok(), "a tagged frame of 64 bytes");
        let refused = |words: &str| profile(words).expect_err(words).to_string();
        assert!(refused("--protocol tcp").contains("--size 72"));
        assert!(refused("--vni 7").contains("--size 110"));
        assert!(refused("--vlan 0").contains("1 to 4094"));
        assert!(refused("--vlan 5000").contains("1 to 4094"));
        assert!(refused("--vni 16777216 --size 200").contains("below"));
        assert!(refused("--vlan 9-5").contains("ends before"));
        assert!(refused("--src-mac 01:00:5e:00:00:01").contains("group"));
        assert!(refused("--pcap x --flows 5").contains("--flows"));
        assert!(refused("--new-flows 0").contains("--new-flows 0: more than 0"));
        assert!(refused("--new-flows 1e300").contains("at most"));
        assert!(refused("--new-flows many").contains("`many` is no number"));
        assert!(profile("--dst-mac ff:ff:ff:ff:ff:ff").is_ok(), "frames for all are flooded");
    }

    #[test]
    fn numbers_are_lists_of_ranges() {
        assert_eq!("3,5-7".parse::<Numbers>().map(|n| n.0), Ok(vec![3, 5, 6, 7]));
        for bad in ["", "x", "1-", "5-4", "0-99999999", "1,,2"] {
            assert!(bad.parse::<Numbers>().is_err(), "{bad}");
        }
    }
}
