//! How long does a connection live without a packet?
//!
//! A [`Policy`] has a time for each [`Timeout`]; policies are numbered, zones name theirs, and a
//! connection keeps the number it was made under. Policy 0 is the default one. Names are those of
//! the `CT_Timeout_Policy` table of `ovs-vswitchd.conf.db(5)`, and a few more.
//!
//! Written by control, read by workers with each packet: each time is an atomic of its own, and a
//! change is in force from a connection's next packet on.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::mem::Mapped;
use crate::tcp::TcpState;

macro_rules! timeouts {
    ($($id:ident $name:literal $secs:literal $text:literal;)*) => {
        /// What a connection is waiting for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Timeout { $(#[doc = $text] $id,)* }

        impl Timeout {
            /// Every kind.
            pub const ALL: &'static [Timeout] = &[$(Timeout::$id,)*];
            /// How many kinds there are.
            pub const COUNT: usize = Self::ALL.len();
            const NAMES: &'static [&'static str] = &[$($name,)*];
            const TEXTS: &'static [&'static str] = &[$($text,)*];
            const SECONDS: &'static [u32] = &[$($secs,)*];

            /// The name in a policy.
            pub const fn name(self) -> &'static str { Self::NAMES[self as usize] }
            /// A sentence a person understands.
            pub const fn text(self) -> &'static str { Self::TEXTS[self as usize] }
            /// The default, in seconds.
            pub const fn default_seconds(self) -> u32 { Self::SECONDS[self as usize] }
        }
    };
}

timeouts! {
    TcpSynSent "tcp_syn_sent" 120 "After the first SYN.";
    TcpSynRecv "tcp_syn_recv" 60 "After the SYN-ACK.";
    TcpEstablished "tcp_established" 432000 "An established TCP connection.";
    TcpFinWait "tcp_fin_wait" 120 "After the first FIN.";
    TcpCloseWait "tcp_close_wait" 60 "After the acknowledgement of the first FIN.";
    TcpLastAck "tcp_last_ack" 30 "After the second FIN.";
    TcpTimeWait "tcp_time_wait" 120 "After the acknowledgement of the second FIN.";
    TcpClose "tcp_close" 10 "After a reset.";
    TcpSynSent2 "tcp_syn_sent2" 120 "After a SYN from both sides.";
    TcpRetransmit "tcp_retransmit" 300 "After several acknowledgements that got no answer.";
    TcpUnack "tcp_unack" 300 "After data that is not acknowledged, or picked up and not answered.";
    UdpFirst "udp_first" 120 "After the first UDP packet.";
    UdpSingle "udp_single" 120 "After more UDP packets of one side only.";
    UdpMultiple "udp_multiple" 120 "After UDP packets of both sides.";
    UdpStream "udp_stream" 180 "UDP of both sides that has gone on for two seconds.";
    IcmpFirst "icmp_first" 60 "After an ICMP query.";
    IcmpReply "icmp_reply" 60 "After the answer to an ICMP query.";
    OtherFirst "other_first" 60 "Any other protocol, one side only.";
    OtherReply "other_reply" 600 "Any other protocol, both sides.";
}

/// What a timeout becomes if another one is shorter, decided when the policy is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime {
    main: Timeout,
    cap: Option<Timeout>,
}

impl From<Timeout> for Lifetime {
    #[inline(always)]
    fn from(main: Timeout) -> Lifetime {
        Lifetime { main, cap: None }
    }
}

impl Lifetime {
    #[inline(always)]
    pub(crate) fn of_tcp(state: TcpState) -> Lifetime {
        Timeout::of_tcp(state).into()
    }
    /// The shorter of the two.
    #[inline(always)]
    pub(crate) fn or_shorter(self, cap: Timeout) -> Lifetime {
        Lifetime { cap: Some(cap), ..self }
    }
}

impl Timeout {
    /// The time of a TCP state.
    #[inline(always)]
    pub fn of_tcp(state: TcpState) -> Timeout {
        match state {
            TcpState::None | TcpState::SynSent => Timeout::TcpSynSent,
            TcpState::SynRecv => Timeout::TcpSynRecv,
            TcpState::Established => Timeout::TcpEstablished,
            TcpState::FinWait => Timeout::TcpFinWait,
            TcpState::CloseWait => Timeout::TcpCloseWait,
            TcpState::LastAck => Timeout::TcpLastAck,
            TcpState::TimeWait => Timeout::TcpTimeWait,
            TcpState::Close => Timeout::TcpClose,
            TcpState::SynSent2 => Timeout::TcpSynSent2,
        }
    }
}

/// A time in seconds for each [`Timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    seconds: [u32; Timeout::COUNT],
}

impl Default for Policy {
    fn default() -> Self {
        let mut seconds = [0; Timeout::COUNT];
        for t in Timeout::ALL {
            seconds[*t as usize] = t.default_seconds();
        }
        Policy { seconds }
    }
}

/// The longest time of a policy, in seconds: 30 days.
pub const MAX_SECONDS: u32 = 30 * 86_400;

impl Policy {
    /// A time, in seconds.
    pub fn get(&self, t: Timeout) -> u32 {
        self.seconds[t as usize]
    }
    /// Set a time, in seconds.
    ///
    /// # Errors
    /// The time is 0 or longer than [`MAX_SECONDS`]; the policy is unchanged.
    pub fn set(&mut self, t: Timeout, seconds: u32) -> Result<(), BadTimeout> {
        if seconds == 0 || seconds > MAX_SECONDS {
            return Err(BadTimeout { name: t.name(), seconds });
        }
        self.seconds[t as usize] = seconds;
        Ok(())
    }
}

/// A time that a policy cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTimeout {
    name: &'static str,
    seconds: u32,
}

impl std::fmt::Display for BadTimeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} s is not from 1 to {MAX_SECONDS} s", self.name, self.seconds)
    }
}

impl std::error::Error for BadTimeout {}

/// How many policies there are.
pub const POLICIES: usize = 256;

/// All policies, and which zone has which.
pub(crate) struct Timeouts {
    /// Milliseconds would overflow 32 bits: seconds.
    seconds: Box<[[AtomicU32; Timeout::COUNT]; POLICIES]>,
    zones: Mapped<AtomicU8>,
}

impl Timeouts {
    pub(crate) fn new() -> io::Result<Timeouts> {
        let default = Policy::default();
        let row = |_| std::array::from_fn(|t| AtomicU32::new(default.seconds[t]));
        Ok(Timeouts { seconds: Box::new(std::array::from_fn(row)), zones: Mapped::new(1 << 16)? })
    }

    /// Milliseconds that a connection under that policy lives.
    #[inline(always)]
    pub(crate) fn millis(&self, policy: u8, t: Lifetime) -> u64 {
        let row = &self.seconds[usize::from(policy)];
        let mut s = row[t.main as usize].load(Ordering::Relaxed);
        if let Some(cap) = t.cap {
            s = s.min(row[cap as usize].load(Ordering::Relaxed));
        }
        u64::from(s) * 1000
    }

    /// The policy of a zone.
    pub(crate) fn policy_of(&self, zone: u16) -> u8 {
        self.zones[usize::from(zone)].load(Ordering::Relaxed)
    }

    pub(crate) fn set_zone(&self, zone: u16, policy: u8) {
        self.zones[usize::from(zone)].store(policy, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, policy: u8) -> Policy {
        let row = &self.seconds[usize::from(policy)];
        Policy { seconds: std::array::from_fn(|t| row[t].load(Ordering::Relaxed)) }
    }

    pub(crate) fn set(&self, policy: u8, p: &Policy) {
        for (slot, s) in self.seconds[usize::from(policy)].iter().zip(p.seconds) {
            slot.store(s, Ordering::Relaxed);
        }
    }
}
