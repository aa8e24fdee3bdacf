//! Why was a packet dropped? One list for the whole switch.
//!
//! Every packet that the switch receives and does not send is counted under exactly one of these.
//! The sentence is what `vswitchctl drops` shows.

/// A list of reasons: an enum with, for each, a short name and a sentence.
#[macro_export]
macro_rules! reasons {
    ($(#[$about:meta])* $list:ident { $($id:ident $name:literal $text:literal;)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $list { $(#[doc = $text] $id,)* }

        impl $list {
            /// Every reason.
            pub const ALL: &'static [$list] = &[$($list::$id,)*];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();
            const NAMES: &'static [&'static str] = &[$($name,)*];
            const TEXTS: &'static [&'static str] = &[$($text,)*];

            /// The short name, stable for programs.
            pub const fn name(self) -> &'static str { Self::NAMES[self as usize] }
            /// A sentence a person understands.
            pub const fn text(self) -> &'static str { Self::TEXTS[self as usize] }
        }
    };
}

reasons! {
    /// A reason for dropping a packet.
    Drop {
        Runt "runt" "The frame is shorter than an Ethernet header.";
        NoFlow "no_flow" "No flow in the table matched the packet.";
        FlowDrop "flow_drop" "The flow that matched drops, or has no output.";
        NoLearnedPort "to_own_port" "The destination is behind the port the packet came from.";
        VlanNotAllowed "vlan_not_allowed" "The port does not carry the packet's VLAN.";
        ReservedMulticast "reserved_multicast" "Link-local multicast (01:80:c2:00:00:0x) is not forwarded.";
        MulticastSource "multicast_source" "The source address is a multicast address.";
        PortGone "port_gone" "The output port does not exist any more.";
        PortDown "port_down" "The output port is down or its interface is missing.";
        TxFull "tx_full" "The output port's transmit ring was full.";
        HandOverFull "handover_full" "The ring to the worker that owns the output queue was full.";
        NoFrame "no_frame" "No free frame was left for a copy of the packet.";
        NoHeadroom "no_headroom" "There was no room in front of the packet for a new header.";
        TooBig "too_big" "The packet is larger than the output port's MTU.";
        UpcallLimit "upcall_limit" "The port's budget for flow set-ups was used up.";
        Recursion "recursion" "Translation went too deep: a loop of resubmit, patch ports or groups.";
        TooManyActions "too_many_actions" "Translation gave more actions or outputs than the limit.";
        Recirculation "recirculation" "The packet recirculated more often than the limit, or to a state that is gone.";
        Malformed "malformed" "A header that an action works on is missing or malformed.";
        TtlExpired "ttl_expired" "The time to live reached zero.";
        Unsupported "unsupported" "An action cannot be done on this packet.";
        TunnelNoPort "tunnel_no_port" "No tunnel port matches the outer header.";
        TunnelMalformed "tunnel_malformed" "The outer header of a tunnel packet is malformed.";
        SharedPort "shared_port" "A port that is shared with the host carries tunnels' packets alone.";
        TunnelChecksum "tunnel_checksum" "The outer UDP or GRE checksum is wrong.";
        TunnelEcn "tunnel_ecn" "The outer header says congestion and the inner is not ECN-capable (RFC 6040).";
        NoRoute "no_route" "There is no route to the destination, or to the tunnel's remote address.";
        NeighbourPending "neighbour_pending" "The next hop's address is not resolved and the queue for it is full.";
        NeighbourFailed "neighbour_failed" "The next hop did not answer.";
        TunnelLoop "tunnel_loop" "The tunnel's route leads back into the tunnel.";
        CtInvalid "ct_invalid" "Connection tracking could not handle the packet.";
        CtFull "ct_full" "The connection table, or the zone's share of it, is full.";
        NatExhausted "nat_exhausted" "No translated address and port was free.";
        FragmentLimit "fragment_limit" "A fragment was dropped: limit, overlap or time-out of reassembly.";
        Martian "martian" "A router got a source or destination address that cannot be on a network.";
        Spoofed "spoofed" "The source address does not belong behind the port that the packet came by.";
        NotForRouter "not_for_router" "A router's port saw a frame that was not for the router.";
        RouterLocal "router_local" "The packet was for an address of a router, which offers no such service.";
        SecurityGroup "security_group" "No rule of the port's security group lets the packet pass.";
        Meter "meter" "A meter's rate was exceeded.";
        ControllerFull "controller_full" "The queue of packets to the controller was full.";
        RateLimit "rate_limit" "The switch's own replies are rate-limited.";
    }
}
