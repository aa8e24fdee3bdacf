//! Why can a packet not be tracked?

/// What is wrong with a packet that cannot be tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Invalid {
    /// Not IPv4 or IPv6, or the IP header is not sound.
    NotIp,
    /// The IPv4 header's checksum is wrong.
    IpChecksum,
    /// A fragment: it has to be reassembled for tracking.
    Fragment,
    /// The header behind IP is cut short, or lies about a length.
    Truncated,
    /// The L4 checksum is wrong.
    Checksum,
    /// A combination of TCP flags that no sender makes.
    TcpFlags,
    /// Port 0.
    PortZero,
    /// An ICMP type that is neither query, answer nor error.
    IcmpType,
    /// An ICMP error whose quoted packet cannot be read.
    Quote,
    /// An ICMP error that quotes no packet of a known connection, or goes to another host than
    /// the sender of what it quotes.
    Unrelated,
    /// Not a packet that can begin a connection.
    NotNew,
    /// TCP: not possible in the connection's state.
    TcpState,
    /// TCP: outside of the window.
    TcpWindow,
    /// TCP: a reset that the receiver would not accept.
    TcpReset,
}

impl Invalid {
    /// Every reason.
    pub const ALL: [Invalid; 14] = [
        Invalid::NotIp,
        Invalid::IpChecksum,
        Invalid::Fragment,
        Invalid::Truncated,
        Invalid::Checksum,
        Invalid::TcpFlags,
        Invalid::PortZero,
        Invalid::IcmpType,
        Invalid::Quote,
        Invalid::Unrelated,
        Invalid::NotNew,
        Invalid::TcpState,
        Invalid::TcpWindow,
        Invalid::TcpReset,
    ];

    /// The short name, stable for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Invalid::NotIp => "not_ip",
            Invalid::IpChecksum => "ip_checksum",
            Invalid::Fragment => "fragment",
            Invalid::Truncated => "truncated",
            Invalid::Checksum => "checksum",
            Invalid::TcpFlags => "tcp_flags",
            Invalid::PortZero => "port_zero",
            Invalid::IcmpType => "icmp_type",
            Invalid::Quote => "quote",
            Invalid::Unrelated => "unrelated",
            Invalid::NotNew => "not_new",
            Invalid::TcpState => "tcp_state",
            Invalid::TcpWindow => "tcp_window",
            Invalid::TcpReset => "tcp_reset",
        }
    }
}
